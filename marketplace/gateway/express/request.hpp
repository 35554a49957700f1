// A chat request, read as far as the gateway must know it, and written as the engine gets it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "text.hpp"

namespace express {

// A member of the request's object: its name and its value as they were written (the name without quotes).
struct Field {
  View name;
  View value;
};

struct Asked {
  std::vector<Field> fields;  // in the order of the body
  View model;                 // what is asked for, as a name
  std::string unescaped_model;  // where it stands, if it came with escapes
  bool stream = false;
  bool include_usage = false;        // stream_options.include_usage
  View prompt_cache_key;             // as a name without escapes, '' when there is none (with them: declined)
  std::int64_t max_tokens = 0;       // the caller's own bound (Envelope.asked_max_tokens), 0 when there is none
};

// Reads a body that is plain enough for the express lane; false where it is not, for whatever reason: then
// Python's own reader has the word, and says what is wrong if something is. Everything that
// `marketplace.gateway.request.parse` would refuse is false here, and so is what it would take a second look
// at: names with escapes, a name twice, fields outside a list of ordinary ones (never `models`, `route`,
// `provider`, `n` other than 1, `n_predict`, anything an engine adds tokens for), pictures, recordings, files
// and links to them (`count_media` would not be 0), nesting beyond reason, bytes that are not UTF-8, numbers out
// of range. The views point into `body`.
bool read_request(View body, Asked& asked);

// Appends the body that the engine gets: byte for byte what `Talk.request_for` makes of the same request for
// an engine that is asked in the chat shape. `model` is the engine's name of it as a JSON string with its quotes.
void write_request(const Asked& asked, View model, std::int64_t max_tokens, std::string& out);

// What an engine's usage object says, in disjoint buckets.
struct Used {
  std::int64_t input_uncached = 0, cache_read = 0, cache_write = 0, output = 0, reasoning = 0;
  std::int64_t input() const { return input_uncached + cache_read + cache_write; }
  std::int64_t total() const { return input() + output + reasoning; }
};

// Reads the `usage` of a whole answer, or of a `data:` event of a stream: its buckets as
// `marketplace.prices.usage.read_usage` finds them, and its text (`raw`) as the engine wrote it. False where
// the document is not JSON, tells no usage, or tells one about which `read_usage` would have to leave a mark;
// also for a body that `Talk.answer` would refuse (an error in spite of its status). Python reads those.
bool read_usage(View document, Used& used, View& raw);

}  // namespace express
