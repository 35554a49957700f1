#include "json.hpp"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace express {

namespace {

constexpr int kMostIntegerDigits = 18, kMostExponentDigits = 2, kLongestNumber = 40;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Whether a string cannot simply go on at this byte.
bool stops(char c) { return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\'; }

#if defined(__x86_64__)

// A bit for each byte that `stops`.
unsigned stops_16(const char* at) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  const __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
  const __m128i quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
  const __m128i backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
  return static_cast<unsigned>(_mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, backslash))));
}

__attribute__((target("avx2"))) const char* plain_until_wide(const char* at, const char* end) {
  const __m256i last_control = _mm256_set1_epi8(0x1f);
  const __m256i quote = _mm256_set1_epi8('"'), backslash = _mm256_set1_epi8('\\');
  for (; end - at >= 32; at += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    const __m256i control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, last_control), bytes);
    const __m256i sign = _mm256_or_si256(_mm256_cmpeq_epi8(bytes, quote), _mm256_cmpeq_epi8(bytes, backslash));
    const auto found = static_cast<unsigned>(_mm256_movemask_epi8(_mm256_or_si256(control, sign)));
    if (found != 0) return at + __builtin_ctz(found);
  }
  return at;
}

// Keiser and Lemire, "Validating UTF-8 in less than one instruction per byte" (2021): every fault shows in two
// neighbouring bytes, but for what is missing of three and four bytes. Each bit stands for one fault; it is left
// where the high half of the first byte, its low half and the high half of the second all allow for it.
constexpr char kShort = 1, kLong = 2, kOverlong3 = 4, kLarge = 8, kSurrogate = 16, kOverlong2 = 32;
constexpr char kLarge1000 = 64, kOverlong4 = 64;
constexpr char kTwice = static_cast<char>(128);  // two continuations: right only inside three and four bytes
constexpr char kAnyLow = kShort | kLong | kTwice;

constexpr char kFar = kAnyLow | kLarge | kLarge1000, kSecond = kLong | kOverlong2 | kTwice;
alignas(16) constexpr char FIRST_HIGH[16] = {kLong,
                                             kLong,
                                             kLong,
                                             kLong,
                                             kLong,
                                             kLong,
                                             kLong,
                                             kLong,
                                             kTwice,
                                             kTwice,
                                             kTwice,
                                             kTwice,
                                             kShort | kOverlong2,
                                             kShort,
                                             kShort | kOverlong3 | kSurrogate,
                                             kShort | kLarge | kLarge1000 | kOverlong4};
alignas(16) constexpr char FIRST_LOW[16] = {kAnyLow | kOverlong3 | kOverlong2 | kOverlong4,
                                            kAnyLow | kOverlong2,
                                            kAnyLow,
                                            kAnyLow,
                                            kAnyLow | kLarge,
                                            kFar,
                                            kFar,
                                            kFar,
                                            kFar,
                                            kFar,
                                            kFar,
                                            kFar,
                                            kFar,
                                            kFar | kSurrogate,
                                            kFar,
                                            kFar};
alignas(16) constexpr char SECOND_HIGH[16] = {kShort,
                                              kShort,
                                              kShort,
                                              kShort,
                                              kShort,
                                              kShort,
                                              kShort,
                                              kShort,
                                              kSecond | kOverlong3 | kLarge1000 | kOverlong4,
                                              kSecond | kOverlong3 | kLarge,
                                              kSecond | kSurrogate | kLarge,
                                              kSecond | kSurrogate | kLarge,
                                              kShort,
                                              kShort,
                                              kShort,
                                              kShort};

__attribute__((target("avx2"))) inline __m256i twice(const char (&table)[16]) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

__attribute__((target("avx2"))) bool is_utf8_wide(View text) {
  const __m256i first_high = twice(FIRST_HIGH), first_low = twice(FIRST_LOW), second_high = twice(SECOND_HIGH);
  const __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(static_cast<char>(0x80));
  const __m256i third = _mm256_set1_epi8(0xe0 - 0x80), fourth = _mm256_set1_epi8(0xf0 - 0x80);
  __m256i before = _mm256_setzero_si256(), wrong = before;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (bool last = false; !last;) {
    __m256i bytes;
    if (end - at >= 32) {
      bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      at += 32;
    } else {  // zeros behind the end show what is cut off there
      alignas(32) char padded[32] = {};
      if (at != end) std::memcpy(padded, at, static_cast<std::size_t>(end - at));
      bytes = _mm256_load_si256(reinterpret_cast<const __m256i*>(padded));
      last = true;
    }
    if (_mm256_movemask_epi8(_mm256_or_si256(bytes, before)) != 0) {
      const __m256i across = _mm256_permute2x128_si256(before, bytes, 0x21);
      const __m256i one_ago = _mm256_alignr_epi8(bytes, across, 15);
      const __m256i two_ago = _mm256_alignr_epi8(bytes, across, 14);
      const __m256i three_ago = _mm256_alignr_epi8(bytes, across, 13);
      const __m256i high_ago = _mm256_and_si256(_mm256_srli_epi16(one_ago, 4), nibble);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
      const __m256i of_first = _mm256_and_si256(_mm256_shuffle_epi8(first_high, high_ago),
                                                _mm256_shuffle_epi8(first_low, _mm256_and_si256(one_ago, nibble)));
      const __m256i pair = _mm256_and_si256(of_first, _mm256_shuffle_epi8(second_high, high));
      const __m256i inside =
          _mm256_and_si256(_mm256_or_si256(_mm256_subs_epu8(two_ago, third), _mm256_subs_epu8(three_ago, fourth)), top);
      wrong = _mm256_or_si256(wrong, _mm256_xor_si256(pair, inside));
    }
    before = bytes;
  }
  return _mm256_testz_si256(wrong, wrong) != 0;
}

const bool wide = (__builtin_cpu_init(), __builtin_cpu_supports("avx2") != 0);

// The first byte that stops a string, or `end`.
const char* plain_until(const char* at, const char* end) {
  for (int i = 0; i < 4 && end - at >= 16; ++i, at += 16) {
    const unsigned found = stops_16(at);
    if (found != 0) return at + __builtin_ctz(found);
  }
  if (wide && end - at >= 32) at = plain_until_wide(at, end);
  for (; end - at >= 16; at += 16) {
    const unsigned found = stops_16(at);
    if (found != 0) return at + __builtin_ctz(found);
  }
  while (at != end && !stops(*at)) ++at;
  return at;
}

#else

const char* plain_until(const char* at, const char* end) {
  while (at != end && !stops(*at)) ++at;
  return at;
}

#endif

void append_utf8(std::string& out, unsigned point) {
  const auto add = [&out](unsigned byte) { out += static_cast<char>(byte); };
  if (point < 0x80) {
    add(point);
  } else if (point < 0x800) {
    add(0xc0 | point >> 6);
    add(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    add(0xe0 | point >> 12);
    add(0x80 | (point >> 6 & 0x3f));
    add(0x80 | (point & 0x3f));
  } else {
    add(0xf0 | point >> 18);
    add(0x80 | (point >> 12 & 0x3f));
    add(0x80 | (point >> 6 & 0x3f));
    add(0x80 | (point & 0x3f));
  }
}

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Whether a backslash before it makes a whole escape. A prompt has one in every line: a table, no branches.
bool is_simple(char kind) {
  constexpr auto bit = [](char c) { return std::uint64_t{1} << (c - '"'); };
  constexpr std::uint64_t low = bit('"') | bit('/') | bit('\\');
  constexpr auto letter = [](char c) { return std::uint64_t{1} << (c - 'b'); };
  constexpr std::uint64_t high = letter('b') | letter('f') | letter('n') | letter('r') | letter('t');
  const unsigned of_low = static_cast<unsigned char>(kind) - unsigned{'"'};
  const unsigned of_high = static_cast<unsigned char>(kind) - unsigned{'b'};
  return ((of_low < 64) & (low >> (of_low & 63))) | ((of_high < 64) & (high >> (of_high & 63)));
}

bool is_high(unsigned unit) { return unit >> 10 == 0xd800 >> 10; }
bool is_low(unsigned unit) { return unit >> 10 == 0xdc00 >> 10; }

}  // namespace

bool is_utf8_portable(View bytes) {
  const auto* at = reinterpret_cast<const unsigned char*>(bytes.data());
  const unsigned char* const end = at + bytes.size();
  while (at != end) {
    std::uint64_t eight;
    while (end - at >= 8 && (std::memcpy(&eight, at, 8), (eight & 0x8080808080808080u) == 0)) at += 8;
    if (at == end) return true;
    const unsigned lead = *at++;
    if (lead < 0x80) continue;
    // How many bytes follow, and between what the first of them lies (Unicode 15, table 3-7).
    if (lead < 0xc2 || lead > 0xf4) return false;
    const int more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (end - at < more) return false;
    const unsigned lowest = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned highest = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (*at < lowest || *at > highest) return false;
    for (int i = 1; i < more; ++i) {
      if (at[i] >> 6 != 2) return false;
    }
    at += more;
  }
  return true;
}

bool is_utf8(View bytes) {
#if defined(__x86_64__)
  if (wide) return is_utf8_wide(bytes);
#endif
  return is_utf8_portable(bytes);
}

bool Cursor::string(Text& text) {
  const char* const start = ++at_;
  for (;;) {
    at_ = plain_until(at_, end_);
    if (at_ == end_) return false;
    if (*at_ == '"') break;
    if (*at_ != '\\') return false;  // a control character
    text.escaped = true;
    if (!escape(text)) return false;
  }
  text.bytes = View(start, static_cast<std::size_t>(at_ - start));
  ++at_;
  return true;
}

bool Cursor::escape(Text& text) {
  ++at_;
  if (at_ == end_) return false;
  const char kind = *at_++;
  if (is_simple(kind)) return true;
  if (kind != 'u') return false;
  unsigned unit = 0;
  if (!code_unit(unit) || is_low(unit)) return false;
  text.spelled |= unit >= 0x40 && unit < 0x80;
  if (!is_high(unit)) return true;
  if (end_ - at_ < 2 || at_[0] != '\\' || at_[1] != 'u') return false;
  at_ += 2;
  return code_unit(unit) && is_low(unit);
}

bool Cursor::code_unit(unsigned& unit) {
  if (end_ - at_ < 4) return false;
  unit = 0;
  for (int i = 0; i < 4; ++i) {
    const int value = hex_value(*at_++);
    if (value < 0) return false;
    unit = unit << 4 | static_cast<unsigned>(value);
  }
  return true;
}

bool Cursor::word(View expected) {
  if (static_cast<std::size_t>(end_ - at_) < expected.size() || View(at_, expected.size()) != expected) return false;
  at_ += expected.size();
  return true;
}

bool Cursor::scalar() {
  switch (next()) {
    case 't':
      return word("true");
    case 'f':
      return word("false");
    case 'n':
      return word("null");
    default:
      return number();
  }
}

bool Cursor::number() {
  const char* const start = at_;
  const auto digits = [this] {
    const char* const from = at_;
    while (at_ != end_ && is_digit(*at_)) ++at_;
    return at_ - from;
  };
  if (at_ != end_ && *at_ == '-') ++at_;
  const bool zero = at_ != end_ && *at_ == '0';
  const std::ptrdiff_t whole = digits();
  if (whole == 0 || (zero && whole > 1)) return false;
  const bool fraction = at_ != end_ && *at_ == '.';
  if (fraction) {
    ++at_;
    if (digits() == 0) return false;
  }
  std::ptrdiff_t exponent = 0;
  if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
    ++at_;
    if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
    exponent = digits();
    if (exponent == 0) return false;
  }
  if (numbers_ == Numbers::any) return true;
  if (!fraction && exponent == 0) return whole <= kMostIntegerDigits;
  return at_ - start <= kLongestNumber && exponent <= kMostExponentDigits;
}

bool Cursor::skip() {
  switch (next()) {
    case '"': {
      Text text;
      return string(text);
    }
    case '{':
      return object([this](const Text&) { return skip(); });
    case '[':
      return array([this] { return skip(); });
    default:
      return scalar();
  }
}

std::string unescaped(const Text& text) {
  std::string out;
  const char* at = text.bytes.data();
  const char* const end = at + text.bytes.size();
  const auto unit = [&at] {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i) value = value << 4 | static_cast<unsigned>(hex_value(*at++));
    return value;
  };
  while (at != end) {
    if (*at != '\\') {
      out += *at++;
      continue;
    }
    const char kind = at[1];
    at += 2;
    switch (kind) {
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'u': {
        unsigned point = unit();
        if (is_high(point)) {
          at += 2;  // the backslash and the u of the other half
          const unsigned low = unit();
          point = 0x10000 + ((point - 0xd800) << 10 | (low - 0xdc00));
        }
        append_utf8(out, point);
        break;
      }
      default:
        out += kind;
    }
  }
  return out;
}

}  // namespace express
