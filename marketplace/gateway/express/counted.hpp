// What the lane counts, to be added to `marketplace.gateway.counters.Counters`.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>

struct _object;
typedef _object PyObject;

namespace express {

// `Histogram`: the same bounds (BOUNDS_S).
class Histogram {
 public:
  void observe_us(std::int64_t us);
  PyObject* take();  // as a dict of its fields, and begins anew

 private:
  std::array<std::int64_t, 20> counts_{};
  double sum_s_ = 0;
};

class Counted {
 public:
  struct OfListing {
    std::int64_t calls = 0, input_tokens = 0, output_tokens = 0, cost_u = 0;
  };
  OfListing& of(const std::string& slug) { return listings_[slug]; }
  void why(const std::string& reason) { ++routes_[reason]; }

  std::int64_t answered = 0, chunks = 0, promised = 0;
  Histogram call_s, upstream_s, settle_s, added_s, first_token_s;

  // All of it as a dict of the fields of `Counters`, and begins anew; null with a Python error set.
  PyObject* take();

 private:
  std::unordered_map<std::string, OfListing> listings_;
  std::unordered_map<std::string, std::int64_t> routes_;
};

}  // namespace express
