// Whose turn it is to write: SQLite's write lock has no queue, so of two writers in one process the busier one
// would keep the other out for as long as it is busy. Whoever comes first is served first here.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

namespace express {

class Turns {
 public:
  using Clock = std::chrono::steady_clock;

  static Turns& of_process();  // lives as long as the process

  void take();
  bool take_until(Clock::time_point deadline);  // false when it is not ours by then
  void give();

 private:
  struct Waiting {
    std::condition_variable called;
    bool served = false;
  };
  std::mutex mutex_;
  std::deque<Waiting*> queue_;
  bool taken_ = false;
};

}  // namespace express
