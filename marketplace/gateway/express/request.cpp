#include "request.hpp"

#include <algorithm>
#include <cstring>

#include "json.hpp"

namespace express {

namespace {

using Numbers = Cursor::Numbers;

constexpr int kMostDepth = 64;  // Python's readers give up at some hundreds
constexpr std::int64_t kMostOutputTokens = 10'000'000, kMostTokens = 1'000'000'000;  // request.py, prices/usage.py
constexpr View kStreamOptions = "{\"include_usage\":true,\"continuous_usage_stats\":true}";
constexpr View kNothing = "null";

enum class Kind { plain, model, stream, stream_options, max_tokens, max_completion_tokens, one, hint, messages };

struct Known {
  View name;
  Kind kind;
};

// The fields of an ordinary request, the usual ones first. Python's gateway reads none of the plain ones.
constexpr Known kOrdinary[] = {
    {"model", Kind::model},
    {"messages", Kind::messages},
    {"stream", Kind::stream},
    {"max_tokens", Kind::max_tokens},
    {"temperature", Kind::plain},
    {"stream_options", Kind::stream_options},
    {"max_completion_tokens", Kind::max_completion_tokens},
    {"top_p", Kind::plain},
    {"tools", Kind::plain},
    {"tool_choice", Kind::plain},
    {"stop", Kind::plain},
    {"seed", Kind::plain},
    {"user", Kind::plain},
    {"n", Kind::one},
    {"presence_penalty", Kind::plain},
    {"frequency_penalty", Kind::plain},
    {"response_format", Kind::plain},
    {"reasoning_effort", Kind::plain},
    {"chat_template_kwargs", Kind::plain},
    {"parallel_tool_calls", Kind::plain},
    {"prompt_cache_key", Kind::hint},
    {"safety_identifier", Kind::plain},
    {"logprobs", Kind::plain},
    {"top_logprobs", Kind::plain},
    {"logit_bias", Kind::plain},
    {"metadata", Kind::plain},
    {"verbosity", Kind::plain},
    {"top_k", Kind::plain},
    {"min_p", Kind::plain},
    {"repetition_penalty", Kind::plain},
    {"stop_token_ids", Kind::plain},
    {"min_tokens", Kind::plain},
    {"ignore_eos", Kind::plain},
};
static_assert(std::size(kOrdinary) <= 64, "a bit for each");
constexpr std::uint64_t kNeeded = 3;  // model and messages

// What `request._MEDIA` looks for: names of parts that hold pictures, recordings and files …
constexpr View kMediaNames[] = {"image_url",    "video_url",   "audio_url",   "image_embeds", "video_embeds",
                                "audio_embeds", "input_image", "input_video", "input_audio",  "input_file"};
// … and the types of such parts.
constexpr View kMediaTypes[] = {"image", "video", "audio", "document", "file"};

bool is_one_of(View text, const View* first, const View* last) { return std::find(first, last, text) != last; }

// A string from its last quote on: `a \"b` may look like the beginning of `"b"` to who looks at bytes alone.
View tail_of(const Text& text) {
  if (!text.escaped) return text.bytes;
  const std::size_t quote = text.bytes.rfind('"');
  return quote == View::npos ? text.bytes : text.bytes.substr(quote + 1);
}

bool has_second_list(View body) {
  const std::size_t first = body.find('[');
  return first != View::npos && body.find('[', first + 1) != View::npos;
}

// Walks over the values of a request, and stops where `count_media` might not be 0.
class Walk {
 public:
  explicit Walk(View body) : at(body, kMostDepth, Numbers::ordinary), body_(body) {}

  // Any value; `name` is the name that it has in an object.
  bool value(const Text& name) {
    switch (at.next()) {
      case '"': {
        Text text;
        return at.string(text) && may_stand(name, text);
      }
      case '{':
        return at.object([this](const Text& inner) { return may_stand({}, inner) && value(inner); });
      case '[':
        return at.array([this] { return value({}); });
      default:
        return at.scalar();
    }
  }

  Cursor at;

 private:
  bool may_stand(const Text& name, const Text& text) {
    const bool media =
        text.spelled || is_media(text) ||
        (is_one_of(text.bytes, std::begin(kMediaTypes), std::end(kMediaTypes)) && tail_of(name) == "type");
    if (!media) return true;
    // Where there is no list but one, nothing is media (`count_media`). It is looked for once.
    if (lists_ == Lists::unknown) lists_ = has_second_list(body_) ? Lists::several : Lists::one;
    return lists_ == Lists::one;
  }
  static bool is_media(const Text& text) {
    const View tail = tail_of(text);
    if (tail.size() < 9 || tail.size() > 12) return false;  // as long as the names are
    return is_one_of(tail, std::begin(kMediaNames), std::end(kMediaNames));
  }

  enum class Lists { unknown, one, several };
  const View body_;
  Lists lists_ = Lists::unknown;
};

bool read_bool(View value, bool& to) {
  to = value == "true";
  return to || value == "false";
}

// A whole number without a sign, no larger than `most`.
bool read_whole(View value, std::int64_t most, std::int64_t& to) {
  if (value.empty() || value.size() > 12 || (value.front() == '0' && value.size() > 1)) return false;
  std::int64_t number = 0;
  for (const char digit : value) {
    if (digit < '0' || digit > '9') return false;
    number = number * 10 + (digit - '0');
  }
  to = number;
  return number <= most;
}

// A bound on the answer's tokens; null is none.
bool read_bound(View value, std::int64_t& to) {
  return value == kNothing || (read_whole(value, kMostOutputTokens, to) && to > 0);
}

bool read_stream_options(View value, bool& include_usage) {
  if (value == kNothing) return true;
  if (value.front() != '{') return false;
  Cursor at(value, kMostDepth, Numbers::ordinary);
  int told = 0;
  return at.object([&](const Text& name) {
    const bool counts = name.bytes == "include_usage";
    if (!counts && name.bytes != "continuous_usage_stats") return false;
    told += counts;
    at.next();
    const char* const start = at.at();
    bool on = false;
    if (!at.scalar() || !read_bool(View(start, static_cast<std::size_t>(at.at() - start)), on)) return false;
    if (counts) include_usage = on;
    return told <= 1;
  });
}

// Some encoders escape the slash (PHP's does), so a listing's name may come with escapes.
bool read_model(View value, Asked& asked) {
  Cursor at(value, 0, Numbers::ordinary);
  Text text;
  if (value.size() <= 2 || at.next() != '"' || !at.string(text)) return false;
  if (!text.escaped) {
    asked.model = text.bytes;
    return true;
  }
  if (text.spelled) return false;
  asked.unescaped_model = unescaped(text);
  asked.model = asked.unescaped_model;
  return true;
}

bool read_field(Kind kind, View value, Asked& asked, std::int64_t& max_tokens, std::int64_t& max_completion_tokens) {
  switch (kind) {
    case Kind::plain:
      return true;
    case Kind::messages:
      return value.front() == '[';
    case Kind::one:
      return value == "1" || value == kNothing;
    case Kind::hint:
      if (value == kNothing) return true;
      if (value.front() != '"' || value.find('\\') != View::npos) return false;
      asked.prompt_cache_key = value.substr(1, value.size() - 2);
      return true;
    case Kind::stream:
      return value == kNothing || read_bool(value, asked.stream);
    case Kind::stream_options:
      return read_stream_options(value, asked.include_usage);
    case Kind::max_tokens:
      return read_bound(value, max_tokens);
    case Kind::max_completion_tokens:
      return read_bound(value, max_completion_tokens);
    case Kind::model:
      return read_model(value, asked);
  }
  return false;
}

// A count of tokens as an engine tells it.
struct Count {
  bool told = false;         // whether the name is there at all, with null maybe
  std::int64_t tokens = -1;  // -1: not told, or null
};

// The counts of a usage object, or of an object of details inside it.
struct Counts {
  struct Named {
    View name;
    Count* count;
  };

  // Reads the value behind `name` where it is one of `named`: 0 is another name, -1 is no such count.
  template <std::size_t N>
  static int read(const Named (&named)[N], const Text& name, View value) {
    for (const Named& known : named) {
      if (known.name != name.bytes) continue;
      if (known.count->told) return -1;
      known.count->told = true;
      return value == kNothing || read_whole(value, 2 * kMostTokens, known.count->tokens) ? 1 : -1;
    }
    return 0;
  }
};

struct Details {
  bool told = false, any = false;
  Count cached, cache_write, cache_creation, created_cache, reasoning;
};

struct Usage {
  Count prompt, completion, total, input, output, cache_read, cache_creation, cache_hit;
  Details of_prompt, of_input, of_completion, of_output;
};

// Calls `member(name, value)` for each member of the object that comes; names with escapes are not taken.
template <class Member>
bool each(Cursor& at, Member&& member) {
  if (at.next() != '{') return false;
  return at.object([&](const Text& name) {
    if (name.escaped) return false;
    at.next();
    const char* const start = at.at();
    return at.skip() && member(name, View(start, static_cast<std::size_t>(at.at() - start)));
  });
}

bool read_details(View value, Details& details) {
  if (details.told) return false;
  details.told = true;
  if (value == kNothing) return true;
  const Counts::Named named[] = {
      {"cached_tokens", &details.cached},
      {"cache_write_tokens", &details.cache_write},
      {"cache_creation_tokens", &details.cache_creation},
      {"created_cache_tokens", &details.created_cache},
      {"reasoning_tokens", &details.reasoning},
  };
  Cursor at(value, kMostDepth, Numbers::ordinary);
  return each(at, [&](const Text& name, View inner) {
    details.any = true;
    return Counts::read(named, name, inner) >= 0;
  });
}

bool read_counts(View object, Usage& usage) {
  const Counts::Named named[] = {
      {"prompt_tokens", &usage.prompt},
      {"completion_tokens", &usage.completion},
      {"total_tokens", &usage.total},
      {"input_tokens", &usage.input},
      {"output_tokens", &usage.output},
      {"cache_read_input_tokens", &usage.cache_read},
      {"cache_creation_input_tokens", &usage.cache_creation},
      {"prompt_cache_hit_tokens", &usage.cache_hit},
  };
  Cursor at(object, kMostDepth, Numbers::ordinary);
  return each(at, [&](const Text& name, View value) {
    const int read = Counts::read(named, name, value);
    if (read != 0) return read > 0;
    if (name.bytes == "prompt_tokens_details") return read_details(value, usage.of_prompt);
    if (name.bytes == "input_tokens_details") return read_details(value, usage.of_input);
    if (name.bytes == "completion_tokens_details") return read_details(value, usage.of_completion);
    if (name.bytes == "output_tokens_details") return read_details(value, usage.of_output);
    return true;
  });
}

// The count, 0 where there is none; false where Python would leave a mark.
bool take(const Count& count, bool required, std::int64_t& tokens) {
  tokens = std::max<std::int64_t>(count.tokens, 0);
  return count.tokens <= kMostTokens && !(required && count.tokens < 0);
}

// A count that is part of `whole`.
bool take_part(const Count& count, std::int64_t whole, std::int64_t& tokens) {
  return take(count, false, tokens) && tokens <= whole;
}

bool read_cached(const Usage& usage, std::int64_t given, Used& used) {
  const Details& details = usage.of_prompt.any ? usage.of_prompt : usage.of_input;
  const Count& cached = details.cached.told ? details.cached : usage.cache_hit;
  const Count& written = details.cache_write.told      ? details.cache_write
                         : details.cache_creation.told ? details.cache_creation
                                                       : details.created_cache;
  if (!take_part(cached, given, used.cache_read)) return false;
  if (!take_part(written, given - used.cache_read, used.cache_write)) return false;
  used.input_uncached = given - used.cache_read - used.cache_write;
  return true;
}

// `marketplace.prices.usage.read_usage`, where it leaves no mark.
bool into_buckets(const Usage& usage, Used& used) {
  const bool newer = !usage.prompt.told && usage.input.told;
  std::int64_t given = 0, answer = 0;
  if (!take(newer ? usage.input : usage.prompt, true, given)) return false;
  // An embedding has no completion, and its total says so.
  if (!take(newer ? usage.output : usage.completion, usage.total.tokens != given, answer)) return false;
  if (usage.cache_read.told || usage.cache_creation.told) {
    if (!take(usage.cache_read, false, used.cache_read)) return false;
    if (!take(usage.cache_creation, false, used.cache_write)) return false;
    used.input_uncached = newer ? given : std::max<std::int64_t>(0, given - used.cache_read - used.cache_write);
  } else if (!read_cached(usage, given, used)) {
    return false;
  }
  if (usage.total.tokens >= 0 && usage.total.tokens != given + answer) return false;
  const Details& details = usage.of_completion.any ? usage.of_completion : usage.of_output;
  if (!take_part(details.reasoning, answer, used.reasoning)) return false;
  used.output = answer - used.reasoning;
  return true;
}

bool starts_with(View text, View prefix) { return text.substr(0, prefix.size()) == prefix; }

void append_member(std::string& out, View name, View value) {
  out += out.back() == '{' ? "\"" : ",\"";
  out.append(name);
  out += "\":";
  out.append(value);
}

}  // namespace

bool read_request(View body, Asked& asked) {
  asked.fields.clear();
  asked.model = asked.prompt_cache_key = {};
  asked.stream = asked.include_usage = false;
  std::int64_t max_tokens = 0, max_completion_tokens = 0;
  std::uint64_t seen = 0;
  Walk walk(body);
  if (walk.at.next() != '{') return false;
  const bool read = walk.at.object([&](const Text& name) {
    const Known* const known = std::find_if(std::begin(kOrdinary), std::end(kOrdinary),
                                            [&name](const Known& other) { return other.name == name.bytes; });
    if (known == std::end(kOrdinary)) return false;
    const std::uint64_t bit = std::uint64_t{1} << (known - std::begin(kOrdinary));
    if ((seen & bit) != 0) return false;
    seen |= bit;
    walk.at.next();
    const char* const start = walk.at.at();
    if (!walk.value(name)) return false;
    const View value(start, static_cast<std::size_t>(walk.at.at() - start));
    asked.fields.push_back({name.bytes, value});
    return read_field(known->kind, value, asked, max_tokens, max_completion_tokens);
  });
  if (!read || !walk.at.ended() || (seen & kNeeded) != kNeeded) return false;
  asked.max_tokens = max_completion_tokens != 0 ? max_completion_tokens : max_tokens;
  return is_utf8(body);
}

void write_request(const Asked& asked, View model, std::int64_t max_tokens, std::string& out) {
  std::string bound;
  append_number(bound, max_tokens);
  // What is set: in its place where the caller has named it, behind all others where not, in this order.
  struct Change {
    Field field;
    bool made = false;
  };
  Change changes[] = {{{"model", model}},
                      {{"max_tokens", bound}},
                      {{"max_completion_tokens", bound}},
                      {{"stream_options", kStreamOptions}}};
  Change* const last = std::end(changes) - (asked.stream ? 0 : 1);
  out += '{';
  for (const Field& field : asked.fields) {
    Change* const change =
        std::find_if(changes, last, [&field](const Change& other) { return other.field.name == field.name; });
    if (change != last) change->made = true;
    append_member(out, field.name, change == last ? field.value : change->field.value);
  }
  for (const Change* change = changes; change != last; ++change) {
    if (!change->made) append_member(out, change->field.name, change->field.value);
  }
  out += '}';
}

bool read_usage(View document, Used& used, View& raw) {
  if (starts_with(document, "{\"error\":{") || starts_with(document, "{\"error\": {")) return false;
  if (starts_with(document, "data:")) document.remove_prefix(5);
  raw = {};
  Cursor at(document, kMostDepth, Numbers::ordinary);
  const bool read = each(at, [&raw](const Text& name, View value) {
    if (name.bytes != "usage") return true;
    const bool first = raw.empty();
    raw = value;
    return first;
  });
  Usage usage;
  if (!read || !at.ended() || raw.empty() || raw.front() != '{' || !is_utf8(document)) return false;
  used = {};
  return read_counts(raw, usage) && into_buckets(usage, used);
}

}  // namespace express
