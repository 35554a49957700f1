// Bytes, digests, names and numbers: what has nothing to do with HTTP, money or Python.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace express {

using View = std::string_view;
using Digest = std::array<unsigned char, 32>;

// SHA-256 (FIPS 180-4), with the processor's own instructions where it has them (looked up once).
class Sha256 {
 public:
  explicit Sha256(bool portable = false);  // `portable`: without those instructions, for the tests
  void update(View bytes);
  Digest digest();

 private:
  using Compress = void (*)(std::uint32_t* state, const unsigned char* blocks, std::size_t count);
  Compress compress_;
  std::uint32_t state_[8];
  unsigned char rest_[64];
  std::uint64_t size_ = 0;
};

Digest sha256(View bytes);
// Lower-case hex, as hashlib's `hexdigest` writes it.
void append_hex(std::string& out, const Digest& digest);

void append_number(std::string& out, std::int64_t value);

// A JSON string with its quotes, byte for byte as `msgspec.json.encode` writes a `str`. `text` is UTF-8.
void append_json(std::string& out, View text);

// `prefix_ULID`, as `catalog.ground.ids.new_id` makes them: sorted by time, counting on within a millisecond.
std::string new_id(View prefix);

std::int64_t now_us();        // the wall clock, microseconds since the Unix epoch
double monotonic_s();         // `time.monotonic`

}  // namespace express
