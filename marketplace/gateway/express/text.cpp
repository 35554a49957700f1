#include "text.hpp"

#include <pthread.h>
#include <sys/random.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace express {

namespace {

constexpr std::size_t kBlock = 64;

alignas(16) constexpr std::uint32_t ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

std::uint32_t turned(std::uint32_t word, int by) { return word >> by | word << (32 - by); }

std::uint32_t big_endian(const unsigned char* bytes) {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 | std::uint32_t{bytes[2]} << 8 | bytes[3];
}

void compress_portable(std::uint32_t* state, const unsigned char* blocks, std::size_t count) {
  for (; count != 0; --count, blocks += kBlock) {
    std::uint32_t word[64];
    for (int i = 0; i < 16; ++i) word[i] = big_endian(blocks + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t low = turned(word[i - 15], 7) ^ turned(word[i - 15], 18) ^ word[i - 15] >> 3;
      const std::uint32_t high = turned(word[i - 2], 17) ^ turned(word[i - 2], 19) ^ word[i - 2] >> 10;
      word[i] = word[i - 16] + low + word[i - 7] + high;
    }
    std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    std::uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t choice = (e & f) ^ (~e & g), majority = (a & b) ^ (a & c) ^ (b & c);
      const std::uint32_t first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + choice + ROUND[i] + word[i];
      const std::uint32_t second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + majority;
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

#if defined(__x86_64__)

__attribute__((target("sha,sse4.1"))) void compress_native(std::uint32_t* state, const unsigned char* blocks,
                                                           std::size_t count) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  auto* halves = reinterpret_cast<__m128i*>(state);
  // The instructions want the eight words as ABEF and CDGH.
  const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(halves), 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(halves + 1), 0x1b);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
  for (; count != 0; --count, blocks += kBlock) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i word[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      word[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks) + i), swap);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {  // four rounds at a time, and the words of the four rounds 16 later
      __m128i& newest = word[i % 4];
      const __m128i before = word[(i + 3) % 4];
      const __m128i sum = _mm_add_epi32(newest, _mm_load_si128(reinterpret_cast<const __m128i*>(ROUND) + i));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
      if (i < 12) {
        const __m128i low = _mm_sha256msg1_epu32(newest, word[(i + 1) % 4]);
        newest = _mm_sha256msg2_epu32(_mm_add_epi32(low, _mm_alignr_epi8(before, word[(i + 2) % 4], 4)), before);
      }
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(halves, _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(halves + 1, _mm_alignr_epi8(dchg, feba, 8));
}

bool has_sha() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_SSE4_1) == 0) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_SHA) != 0;
}

#endif

// Ids, as in catalog/ground/ids.py.
constexpr char kCrockford[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
constexpr unsigned kCounted = 32 * 32;  // ids that differ in their last two letters alone
constexpr std::size_t kUlid = 26, kShared = 24;

std::atomic<unsigned> forks{0};

struct Maker {  // what one thread needs
  std::int64_t stamp_ms = -1;
  unsigned last = kCounted, forks = 0;
  char shared[kShared];
};

thread_local Maker maker;

void random_bytes(unsigned char* to, std::size_t size) {
  while (size != 0) {
    const ssize_t got = getrandom(to, size, 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      std::abort();  // ids that are no secret may still never be drawn twice
    }
    to += got;
    size -= static_cast<std::size_t>(got);
  }
}

// Writes the lowest 5 × `letters` bits.
void write_letters(char* to, unsigned __int128 bits, std::size_t letters) {
  for (std::size_t i = letters; i-- != 0; bits >>= 5) to[i] = kCrockford[static_cast<unsigned>(bits) & 31];
}

timespec clock_of(clockid_t which) {
  timespec time{};
  clock_gettime(which, &time);
  return time;
}

constexpr char kHex[] = "0123456789abcdef";

}  // namespace

Sha256::Sha256(bool portable)
    : compress_(compress_portable),
      state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {
#if defined(__x86_64__)
  static const bool native = has_sha();
  if (native && !portable) compress_ = compress_native;
#else
  static_cast<void>(portable);
#endif
}

void Sha256::update(View bytes) {
  const auto* from = reinterpret_cast<const unsigned char*>(bytes.data());
  std::size_t left = bytes.size();
  const std::size_t begun = size_ % kBlock;
  size_ += left;
  if (begun != 0) {
    const std::size_t more = left < kBlock - begun ? left : kBlock - begun;
    std::memcpy(rest_ + begun, from, more);
    if (begun + more < kBlock) return;
    compress_(state_, rest_, 1);
    from += more;
    left -= more;
  }
  if (left >= kBlock) compress_(state_, from, left / kBlock);
  if (left % kBlock != 0) std::memcpy(rest_, from + left / kBlock * kBlock, left % kBlock);
}

Digest Sha256::digest() {
  // A one bit, zeros, and the number of bits: in the block that has begun, or in one more.
  const std::size_t begun = size_ % kBlock;
  unsigned char last[2 * kBlock] = {};
  if (begun != 0) std::memcpy(last, rest_, begun);
  last[begun] = 0x80;
  const std::size_t blocks = begun + 9 <= kBlock ? 1 : 2;
  const std::uint64_t bits = size_ * 8;
  for (int i = 0; i < 8; ++i) last[blocks * kBlock - 1 - i] = static_cast<unsigned char>(bits >> 8 * i);
  compress_(state_, last, blocks);
  Digest digest;
  for (std::size_t i = 0; i < digest.size(); ++i) {
    digest[i] = static_cast<unsigned char>(state_[i / 4] >> (24 - 8 * (i % 4)));
  }
  return digest;
}

Digest sha256(View bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.digest();
}

void append_hex(std::string& out, const Digest& digest) {
  for (const unsigned char byte : digest) {
    out += kHex[byte >> 4];
    out += kHex[byte & 15];
  }
}

void append_number(std::string& out, std::int64_t value) {
  char digits[20];
  const auto written = std::to_chars(digits, digits + sizeof digits, value);
  out.append(digits, written.ptr);
}

void append_json(std::string& out, View text) {
  out += '"';
  std::size_t plain = 0;  // where the run of bytes that stay as they are began
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x20 && byte != '"' && byte != '\\') continue;
    out.append(text.substr(plain, i - plain));
    plain = i + 1;
    out += '\\';
    switch (byte) {
      case '"':
      case '\\':
        out += static_cast<char>(byte);
        break;
      case '\b':
        out += 'b';
        break;
      case '\f':
        out += 'f';
        break;
      case '\n':
        out += 'n';
        break;
      case '\r':
        out += 'r';
        break;
      case '\t':
        out += 't';
        break;
      default:
        out += "u00";
        out += kHex[byte >> 4];
        out += kHex[byte & 15];
    }
  }
  out.append(text.substr(plain));
  out += '"';
}

std::string new_id(View prefix) {
  // A forked process must not go on counting from ours.
  static const int watching = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  if (watching != 0) std::abort();
  Maker& mine = maker;
  const std::int64_t stamp_ms = now_us() / 1000;
  const unsigned born = forks.load(std::memory_order_relaxed);
  ++mine.last;
  if (stamp_ms != mine.stamp_ms || mine.last >= kCounted || mine.forks != born) {
    mine.stamp_ms = stamp_ms;
    mine.forks = born;
    unsigned char random[10];
    random_bytes(random, sizeof random);
    unsigned __int128 drawn = 0;
    for (const unsigned char byte : random) drawn = drawn << 8 | byte;
    write_letters(mine.shared, static_cast<std::uint64_t>(stamp_ms) & ((std::uint64_t{1} << 48) - 1), 10);
    write_letters(mine.shared + 10, drawn >> 10, 14);
    mine.last = static_cast<unsigned>(drawn) & (kCounted / 2 - 1);
  }
  std::string id;
  id.reserve(prefix.size() + 1 + kUlid);
  id.append(prefix);
  id += '_';
  id.append(mine.shared, kShared);
  id += kCrockford[mine.last >> 5];
  id += kCrockford[mine.last & 31];
  return id;
}

std::int64_t now_us() {
  const timespec time = clock_of(CLOCK_REALTIME);
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000 + time.tv_nsec / 1000;
}

double monotonic_s() {
  const timespec time = clock_of(CLOCK_MONOTONIC);
  return static_cast<double>(static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec) / 1e9;
}

}  // namespace express
