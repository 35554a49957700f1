// When a batch is worth a moment's wait for more charges, and for how many: `marketplace.ledger.company`.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>

namespace express {

class Company {
 public:
  static constexpr auto kWait = std::chrono::milliseconds(1);

  std::size_t expected(std::size_t queued) const { return queued < crowd_ && per_s_ * kWaitS >= kWorth ? crowd_ : 0; }
  void began(std::size_t count, double now) {
    double passed = std::max(now - began_, 1e-6);
    per_s_ += (static_cast<double>(count) / passed - per_s_) * std::min(1.0, passed / (4 * kWaitS));
    began_ = now;
  }
  void answered(std::size_t count, std::size_t queued) { crowd_ = count + queued; }

 private:
  static constexpr double kWaitS = 0.001, kWorth = 4.0;
  std::size_t crowd_ = 0;
  double per_s_ = 0, began_ = 0;
};

}  // namespace express
