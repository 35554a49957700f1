#include "stream.hpp"

#include <cstring>

#include "json.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace express {

namespace {

constexpr View kDone = "data: [DONE]", kDoneClose = "data:[DONE]";
constexpr View kData = "data:", kDataSpace = "data: ", kEnd = "\n\n";
constexpr View kUsageName = "\"usage\":", kLastUsage = ",\"usage\":{", kError = "\"error\"";
constexpr View kChoicesName = "\"choices\":";
constexpr std::size_t kLargestEvent = 16 * 1024 * 1024;
constexpr std::uint64_t kMostMade = 64 * 1024 * 1024;
// What Python's readers take, less what its own stack may need of the limit of 1000.
constexpr int kMostDepth = 900;

bool starts_with(View text, View prefix) { return text.substr(0, prefix.size()) == prefix; }
bool ends_with(View text, View suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

// `find` and `rfind` of bytes, sixteen places at a time. Two bytes of the needle are compared at every place,
// its second and its last but one: the outer ones of our needles are signs that stand everywhere.
#if defined(__SSE2__)

class Needle {
 public:
  explicit Needle(View bytes)
      : bytes_(bytes), second_(_mm_set1_epi8(bytes[1])), late_(_mm_set1_epi8(bytes[bytes.size() - 2])) {}

  std::size_t in(View hay, std::size_t from = 0) const {
    const std::size_t size = bytes_.size();
    for (; hay.size() >= size + 15 && from <= hay.size() - size - 15; from += 16) {
      for (unsigned found = places(hay.data() + from); found != 0; found &= found - 1) {
        const std::size_t at = from + static_cast<unsigned>(__builtin_ctz(found));
        if (hay.compare(at, size, bytes_) == 0) return at;
      }
    }
    return hay.find(bytes_, from);
  }

  std::size_t last_in(View hay) const {
    const std::size_t size = bytes_.size();
    std::size_t beyond = hay.size() < size ? 0 : hay.size() - size + 1;  // places before this one are open
    for (; beyond >= 16; beyond -= 16) {
      for (unsigned found = places(hay.data() + beyond - 16); found != 0;) {
        const unsigned highest = 31 - static_cast<unsigned>(__builtin_clz(found));
        const std::size_t at = beyond - 16 + highest;
        if (hay.compare(at, size, bytes_) == 0) return at;
        found &= ~(1u << highest);
      }
    }
    return beyond == 0 ? View::npos : hay.rfind(bytes_, beyond - 1);
  }

 private:
  unsigned places(const char* at) const {
    const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 1));
    const __m128i late = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + bytes_.size() - 2));
    const __m128i both = _mm_and_si128(_mm_cmpeq_epi8(second, second_), _mm_cmpeq_epi8(late, late_));
    return static_cast<unsigned>(_mm_movemask_epi8(both));
  }

  const View bytes_;
  const __m128i second_, late_;
};

#else

class Needle {
 public:
  explicit Needle(View bytes) : bytes_(bytes) {}
  std::size_t in(View hay, std::size_t from = 0) const { return hay.find(bytes_, from); }
  std::size_t last_in(View hay) const { return hay.rfind(bytes_); }

 private:
  const View bytes_;
};

#endif

// Whether `name` stands somewhere with `value` behind it, or with a space and `value`.
bool has_member(View event, View name, View value) {
  const Needle needle(name);
  for (std::size_t at = needle.in(event); at != View::npos; at = needle.in(event, at + 1)) {
    View behind = event.substr(at + name.size());
    if (!behind.empty() && behind.front() == ' ') behind.remove_prefix(1);
    if (starts_with(behind, value)) return true;
  }
  return false;
}

bool has_usage(View event) { return has_member(event, kUsageName, "{"); }
bool has_no_choices(View event) { return has_member(event, kChoicesName, "[]"); }

// `sse._is_error`: whether a chunk tells an error, in the place of its choices or beside them. What cannot be
// read is no answer either.
bool is_error(View event) {
  Cursor at(event.substr(kData.size()), kMostDepth, Cursor::Numbers::any);
  View error = "null";
  if (at.next() != '{') return true;
  const bool read = at.object([&](const Text& name) {
    at.next();
    const char* const start = at.at();
    if (!at.skip()) return false;
    // The last one counts.
    if (name.escaped ? unescaped(name) == "error" : name.bytes == "error") {
      error = View(start, static_cast<std::size_t>(at.at() - start));
    }
    return true;
  });
  return !read || !at.ended() || error != "null";
}

// `sse.without_usage`: what is left of a chunk whose last member is usage, with details of one level inside it;
// the rest of it is "}". The whole chunk where that is not so, and the rest is nothing.
View without_usage(View event, View& rest) {
  rest = {};
  const std::size_t start = Needle(kLastUsage).last_in(event);
  if (start == View::npos || !ends_with(event, "}}")) return event;
  bool inside = false;
  for (const char c : event.substr(start + kLastUsage.size(), event.size() - 2 - start - kLastUsage.size())) {
    if (c == (inside ? '{' : '}')) return event;
    if (c == '{' || c == '}') inside = c == '{';
  }
  if (inside) return event;
  rest = "}";
  return event.substr(0, start);
}

// Appends bytes so that they are themselves again once Python's reader has put LF for CR LF.
void append_kept(std::string& out, View bytes) {
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    if (bytes[at] == '\n' && at != 0 && bytes[at - 1] == '\r') out += '\r';
    out += bytes[at];
  }
}

void append_event(std::string& out, View event) {
  append_kept(out, event);
  if (!event.empty() && event.back() == '\r') out += '\r';
  out += kEnd;
}

std::string with_plain_ends(View data) {
  std::string out;
  out.reserve(data.size());
  for (std::size_t at = 0; at < data.size(); ++at) {
    if (data[at] == '\r' && at + 1 < data.size() && data[at + 1] == '\n') continue;
    out += data[at];
  }
  return out;
}

}  // namespace

bool StreamReader::feed(View piece, std::string& forward) {
  const std::size_t before = forward.size();
  if (raised_ == Raised::not_yet && !cut(piece, forward)) forward.resize(before);
  return raised_ == Raised::not_yet && failed_.empty();
}

bool StreamReader::cut(View piece, std::string& forward) {
  if (edge_.empty() && held_.empty() && ends_with(piece, "}\n\n") && piece.find('\n') == piece.size() - 2) {
    return event(piece.substr(0, piece.size() - 2), forward);  // what most engines send for a token
  }
  std::string whole;
  View data = piece;
  if (!edge_.empty()) {
    whole.reserve(edge_.size() + piece.size());
    whole.append(edge_).append(piece);
    data = whole;
  }
  if (data.find('\r') != View::npos) {
    whole = with_plain_ends(data);
    data = whole;
  }
  const std::size_t end = data.rfind(kEnd);
  if (end == View::npos) {
    const std::size_t edge = data.size() < 2 ? data.size() : 2;
    held_.append(data.substr(0, data.size() - edge));
    edge_.assign(data.substr(data.size() - edge));
    if (held_.size() <= kLargestEvent) return true;
    raised_ = Raised::endless;
    return false;
  }
  edge_.assign(data.substr(end + kEnd.size()));
  data = data.substr(0, end);
  std::string joined;
  if (!held_.empty()) {
    joined.swap(held_);
    joined.append(data);
    data = joined;
  }
  for (;;) {
    const std::size_t next = data.find(kEnd);
    if (!event(data.substr(0, next), forward)) return false;
    if (next == View::npos) return true;
    data.remove_prefix(next + kEnd.size());
  }
}

bool StreamReader::event(View event, std::string& forward) {
  // What every token of an engine that counts along looks like: usage last, and nothing inside it.
  if (ends_with(event, "}}") && starts_with(event, kDataSpace)) {
    const std::size_t at = Needle(kLastUsage).last_in(event);
    if (at != View::npos && event.find('}', at) == event.size() - 2 && Needle(kError).in(event) == View::npos) {
      return counted(event, event.substr(0, at), "}", forward);
    }
  }
  return any(event, forward);
}

bool StreamReader::any(View event, std::string& forward) {
  if (starts_with(event, kData) && event.find('\n') == View::npos) return single(event, forward);
  bool has_data = false, named_error = false;
  std::string joined(kData);  // JSON has no use for the line ends between them
  for (View rest = event;;) {
    const std::size_t end = rest.find('\n');
    const View line = rest.substr(0, end);
    if (starts_with(line, kData)) {
      has_data = true;
      joined.append(line.substr(kData.size()));
    }
    named_error |= line == "event: error" || line == "event:error";
    if (end == View::npos) break;
    rest.remove_prefix(end + 1);
  }
  while (!event.empty() && event.front() == '\n') event.remove_prefix(1);
  while (!event.empty() && event.back() == '\n') event.remove_suffix(1);
  if (!has_data) {
    if (!event.empty()) forward.append(event).append(kEnd);
    return true;
  }
  if (named_error) {
    failed_.assign(event);
    return true;
  }
  return single(joined, forward);
}

bool StreamReader::single(View event, std::string& forward) {
  if (starts_with(event, kDone) || starts_with(event, kDoneClose)) {
    done_ = true;
    return true;
  }
  if (Needle(kError).in(event) != View::npos && is_error(event)) {
    failed_.assign(event);
    return true;
  }
  if (has_usage(event)) {
    View end;
    const View left = without_usage(event, end);
    return counted(event, left, end, forward);
  }
  if (usage_.empty() && !keep(event)) return false;
  forward.append(event).append(kEnd);
  return true;
}

bool StreamReader::counted(View event, View forwarded, View end, std::string& forward) {
  if (usage_.empty()) std::string().swap(kept_);
  usage_.assign(event);
  if (has_no_choices(event)) {
    usage_chunk_.assign(event);
  } else {
    forward.append(forwarded).append(end).append(kEnd);
  }
  return true;
}

bool StreamReader::keep(View event) {
  made_size_ += event.size();
  append_event(kept_, event);
  if (made_size_ <= kMostMade) return true;
  raised_ = Raised::too_much;
  return false;
}

std::string StreamReader::tail() const {
  std::string out;
  if (raised_ == Raised::endless) {  // Python's reader raises on it again, if nothing whole stands before it
    append_kept(out, held_ + edge_);
    return out;
  }
  if (usage_.empty()) {
    out = kept_;
  } else {
    if (!usage_chunk_.empty() && usage_chunk_ != usage_) append_event(out, usage_chunk_);
    append_event(out, usage_);
  }
  if (!failed_.empty()) append_event(out, failed_);
  if (done_) out.append(kDone).append(kEnd);
  const std::string part = held_ + edge_;
  const bool returns = part.find('\r') != std::string::npos;
  if (!returns && (out.empty() || part.empty() || part.front() != '\n')) return out + part;
  // Python's reader looks for CR LF in all that follows its last whole event, and again when more has come; this
  // one has looked at `held_` for the last time. A comment is an event that changes nothing.
  if (out.empty()) out = ":\n\n";
  std::string left;
  if (part.front() == '\n') left += '\r';  // or it would end the event before it
  append_kept(left, held_);
  if (!held_.empty() && held_.back() == '\r' && !edge_.empty() && edge_.front() == '\n') left += '\r';
  append_kept(out, left + edge_);
  return out;
}

}  // namespace express
