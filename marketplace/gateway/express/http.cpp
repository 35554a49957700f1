#include "http.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace express::net {

namespace {

constexpr View kBegins = "POST /v1/chat/completions ";
constexpr View kVersion = "HTTP/1.1\r\n";
constexpr int kMostDigits = 15;  // of a length: far below what 64 bits hold

enum : unsigned char { token = 1, text = 2, plain_text = 4 };

// RFC 9110: what names consist of (tchar), and values; `plain_text` is ASCII.
constexpr std::array<unsigned char, 256> kinds() {
  std::array<unsigned char, 256> table{};
  for (int c = 0x20; c < 0x100; ++c) table[c] = c == 0x7f ? 0 : c < 0x7f ? text | plain_text : text;
  table['\t'] = text | plain_text;
  for (int c = '0'; c <= '9'; ++c) table[c] |= token;
  for (int c = 'a'; c <= 'z'; ++c) table[c] |= token;
  for (int c = 'A'; c <= 'Z'; ++c) table[c] |= token;
  for (char c : View("!#$%&'*+-.^_`|~")) table[static_cast<unsigned char>(c)] |= token;
  return table;
}
constexpr auto kKind = kinds();

bool is(char c, unsigned char wanted) { return kKind[static_cast<unsigned char>(c)] & wanted; }
bool all(View bytes, unsigned char wanted) {
  for (char c : bytes) {
    if (!is(c, wanted)) return false;
  }
  return true;
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_blank(char c) { return c == ' ' || c == '\t'; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }

int hex_digit(char c) {
  c = lower(c);
  return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool same(View bytes, View lower_case) {
  if (bytes.size() != lower_case.size()) return false;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (lower(bytes[i]) != lower_case[i]) return false;
  }
  return true;
}

View behind_blanks(View value) {
  while (!value.empty() && is_blank(value.front())) value.remove_prefix(1);
  return value;
}

View trimmed(View value) {
  value = behind_blanks(value);
  while (!value.empty() && is_blank(value.back())) value.remove_suffix(1);
  return value;
}

bool read_length(View digits, std::uint64_t& length) {
  if (digits.empty() || digits.size() > kMostDigits) return false;
  length = 0;
  for (char c : digits) {
    if (!is_digit(c)) return false;
    length = length * 10 + static_cast<unsigned>(c - '0');
  }
  return true;
}

// What a header of a request makes of it.
enum class Meaning { none, authorization, length, connection, unusual };

Meaning meaning(View name) {
  switch (name.size()) {
    case 6:
      return same(name, "expect") ? Meaning::unusual : Meaning::none;
    case 7:
      return same(name, "upgrade") ? Meaning::unusual : Meaning::none;
    case 9:
      return same(name, "x-api-key") ? Meaning::unusual : Meaning::none;
    case 10:
      if (same(name, "connection")) return Meaning::connection;
      return same(name, "tracestate") ? Meaning::unusual : Meaning::none;
    case 11:
      return same(name, "traceparent") ? Meaning::unusual : Meaning::none;
    case 13:
      return same(name, "authorization") ? Meaning::authorization : Meaning::none;
    case 14:
      return same(name, "content-length") ? Meaning::length : Meaning::none;
    // Who has been forwarded matters for keys of some networks only, and calls of those are never the lane's.
    case 15:
      return same(name, "idempotency-key") ? Meaning::unusual : Meaning::none;
    case 16:
      // llhttp reads the one as it reads `connection`.
      return same(name, "proxy-connection") || same(name, "content-encoding") ? Meaning::unusual : Meaning::none;
    case 17:
      return same(name, "transfer-encoding") ? Meaning::unusual : Meaning::none;
    default:
      return Meaning::none;
  }
}

}  // namespace

Plain begins_plainly(View bytes) {
  const std::size_t size = std::min(bytes.size(), kBegins.size());
  if (std::memcmp(bytes.data(), kBegins.data(), size) != 0) return Plain::no;
  return size == kBegins.size() ? Plain::yes : Plain::unclear;
}

std::size_t size_of_head(View bytes, std::size_t from) {
  from = from > 3 ? std::min(from - 3, bytes.size()) : 0;
  const void* end = memmem(bytes.data() + from, bytes.size() - from, "\r\n\r\n", 4);
  return end == nullptr ? 0 : static_cast<std::size_t>(static_cast<const char*>(end) - bytes.data()) + 4;
}

bool read_plain(View head, PlainHead& plain) {
  if (head.size() < kBegins.size() + kVersion.size() + 2 || head.size() > kLargestPlainHead) return false;
  if (head.substr(0, kBegins.size()) != kBegins || head.substr(kBegins.size(), kVersion.size()) != kVersion)
    return false;
  const char* at = head.data() + kBegins.size() + kVersion.size();
  const char* const end = head.data() + head.size() - 2;  // the blank line
  bool has_length = false, has_authorization = false;
  while (at < end) {
    const char* const name = at;
    while (at < end && is(*at, token)) ++at;
    if (at == name || at == end || *at != ':') return false;
    const View told(name, static_cast<std::size_t>(at - name));
    ++at;
    while (at < end && is_blank(*at)) ++at;
    const char* const first = at;
    while (at < end && is(*at, plain_text)) ++at;
    const View value(first, static_cast<std::size_t>(at - first));
    if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return false;
    at += 2;
    switch (meaning(told)) {
      case Meaning::none:
        break;
      case Meaning::unusual:
        return false;
      case Meaning::connection:
        if (!same(value, "keep-alive")) return false;
        break;
      case Meaning::length:
        if (has_length || !read_length(value, plain.length)) return false;
        has_length = true;
        break;
      case Meaning::authorization:
        // A blank at the end belongs to the value for llhttp, and not for the RFC: Python decides.
        if (has_authorization || (!value.empty() && is_blank(value.back()))) return false;
        has_authorization = true;
        plain.authorization = value;
        break;
    }
  }
  return has_length;
}

void AnswerReader::begin(bool push) {
  answer = Answer();
  part_ = Part::start;
  push_wanted_ = push;
  push_ = reached_ = has_length_ = encoded_ = chunked_ = one_one_ = close_ = keep_ = false;
  left_ = 0;
  around_ = piece_size_ = rest_ = 0;
  line_.clear();
}

bool AnswerReader::keeps() const { return part_ != Part::until_end && (one_one_ ? !close_ : keep_); }

AnswerReader::State AnswerReader::feed(char* bytes, std::size_t size) {
  piece_size_ = rest_ = 0;
  reached_ = reached_ || size > 0;
  around_ += size;
  char* at = bytes;
  const char* const end = bytes + size;
  while (at < end) {
    State state;
    if (part_ == Part::length || part_ == Part::until_end || part_ == Part::chunk) {
      state = body(at, end);
    } else {
      const char* read = at;
      state = lines(read, end);
      at += read - at;
    }
    if (state == State::more) continue;
    rest_ = static_cast<std::size_t>(end - at);
    return state;
  }
  return around_ > kMostAround ? State::broken : State::more;
}

AnswerReader::State AnswerReader::end() {
  piece_size_ = rest_ = 0;
  return part_ == Part::until_end ? State::done : State::broken;
}

// Reads one line, or keeps its beginning.
AnswerReader::State AnswerReader::lines(const char*& at, const char* end) {
  if (part_ == Part::start && line_.empty()) {
    while (at < end && (*at == '\r' || *at == '\n')) ++at;  // RFC 9112, section 2.2
    if (at == end) return State::more;
  }
  const auto* stop = static_cast<const char*>(std::memchr(at, '\n', static_cast<std::size_t>(end - at)));
  if (stop == nullptr) {
    line_.append(at, static_cast<std::size_t>(end - at));
    at = end;
    return begins_right() ? State::more : State::broken;
  }
  View whole(at, static_cast<std::size_t>(stop - at));
  if (!line_.empty()) whole = line_.append(whole);
  at = stop + 1;
  if (whole.empty() || whole.back() != '\r') return State::broken;
  whole.remove_suffix(1);
  const State state = line(whole);
  line_.clear();
  return state;
}

// Whether the beginning of a line may become one: what is no HTTP at all is not waited for.
bool AnswerReader::begins_right() const {
  const View told(line_);
  if (part_ == Part::start) return told.substr(0, 5) == View("HTTP/").substr(0, told.size());
  if (part_ == Part::chunk_end) return told == "\r";
  if (part_ == Part::chunk_size) return hex_digit(told[0]) >= 0;
  return is(told[0], token) || told == "\r";
}

AnswerReader::State AnswerReader::line(View line) {
  switch (part_) {
    case Part::start:
      return status_line(line);
    case Part::headers:
      if (line.empty()) return head_ended();
      return header(line, false) ? State::more : State::broken;
    case Part::chunk_size:
      return chunk_size(line) ? State::more : State::broken;
    case Part::chunk_end:
      part_ = Part::chunk_size;
      return line.empty() ? State::more : State::broken;
    case Part::trailers:
      if (line.empty()) return State::done;
      return header(line, true) ? State::more : State::broken;
    default:
      return State::broken;
  }
}

// HTTP/1.1 200 OK
AnswerReader::State AnswerReader::status_line(View line) {
  // An engine may name a version that it does not speak: `wire.py`'s parser takes what these say for HTTP/1.
  constexpr View versions[] = {"HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9"};
  const bool known = std::find(std::begin(versions), std::end(versions), line.substr(0, 8)) != std::end(versions);
  if (!known || line.size() < 12 || line[8] != ' ' || (line.size() > 12 && line[12] != ' ')) return State::broken;
  if (line[9] < '1' || line[9] > '9' || !is_digit(line[10]) || !is_digit(line[11])) return State::broken;
  if (line.find('\r') != View::npos) return State::broken;
  one_one_ = line[7] == '1';
  answer.status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  part_ = Part::headers;
  return State::more;
}

bool AnswerReader::header(View line, bool trailer) {
  const std::size_t colon = line.find(':');
  if (colon == 0 || colon == View::npos || !all(line.substr(0, colon), token)) return false;
  const View value = behind_blanks(line.substr(colon + 1));
  if (!all(value, text)) return false;
  std::string name(line.substr(0, colon));
  for (char& c : name) c = lower(c);
  if (name == "content-length") {
    if (has_length_ || encoded_ || !read_length(trimmed(value), left_)) return false;
    has_length_ = true;
  } else if (name == "transfer-encoding") {
    if (has_length_ || !transfer_encoding(value)) return false;
  } else if (name == "connection" || name == "proxy-connection") {
    connection(value);
  }
  // Trailers are no headers (RFC 9110, section 6.5.1).
  if (!trailer) answer.headers.emplace_back(std::move(name), value);
  return true;
}

bool AnswerReader::transfer_encoding(View value) {
  encoded_ = true;
  const std::size_t comma = value.rfind(',');
  chunked_ = same(trimmed(comma == View::npos ? value : value.substr(comma + 1)), "chunked");
  return true;
}

void AnswerReader::connection(View value) {
  while (true) {
    const std::size_t comma = value.find(',');
    const View word = trimmed(value.substr(0, comma));
    if (same(word, "close")) close_ = true;
    if (same(word, "keep-alive")) keep_ = true;
    if (comma == View::npos) return;
    value.remove_prefix(comma + 1);
  }
}

AnswerReader::State AnswerReader::head_ended() {
  const int status = answer.status;
  if (status == 101) return State::broken;  // nobody asked for another protocol
  if (status < 200) {
    // An interim answer; the real one follows.
    answer = Answer();
    has_length_ = encoded_ = chunked_ = close_ = keep_ = false;
    left_ = 0;
    part_ = Part::start;
    return State::more;
  }
  push_ = push_wanted_ && status == 200;
  if (status == 204 || status == 304) return State::done;
  if (encoded_) {
    // Something else than chunks has no end that could be seen.
    if (!chunked_) return State::broken;
    part_ = Part::chunk_size;
    return State::more;
  }
  if (!has_length_) {
    part_ = Part::until_end;
    return State::more;
  }
  if (left_ == 0) return State::done;
  if (!push_ && left_ > kLargestBody) return State::broken;
  part_ = Part::length;
  return State::more;
}

// 1a2b;name=value
bool AnswerReader::chunk_size(View line) {
  std::size_t at = 0;
  left_ = 0;
  for (; at < line.size(); ++at) {
    const int digit = hex_digit(line[at]);
    if (digit < 0) break;
    if (left_ >> 56) return false;
    left_ = left_ * 16 + static_cast<unsigned>(digit);
  }
  if (at == 0 || (at < line.size() && line[at] != ';') || !all(line.substr(at), text)) return false;
  part_ = left_ == 0 ? Part::trailers : Part::chunk;
  return true;
}

AnswerReader::State AnswerReader::body(char*& at, const char* end) {
  auto size = static_cast<std::size_t>(end - at);
  if (part_ != Part::until_end) size = static_cast<std::size_t>(std::min<std::uint64_t>(size, left_));
  around_ = 0;
  if (!push_) {
    if (size > kLargestBody - answer.body.size()) return State::broken;
    answer.body.append(at, size);
  } else if (piece_size_ == 0) {
    piece_ = at;
    piece_size_ = size;
  } else {
    // However the engine has framed it, it goes on in one piece; pieces before it end where it begins, or earlier.
    std::memmove(piece_ + piece_size_, at, size);
    piece_size_ += size;
  }
  at += size;
  if (part_ == Part::until_end) return State::more;
  left_ -= size;
  if (left_ > 0) return State::more;
  if (part_ == Part::length) return State::done;
  part_ = Part::chunk_end;
  return State::more;
}

}  // namespace express::net
