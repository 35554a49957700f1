#include "turns.hpp"

#include <algorithm>

namespace express {

Turns& Turns::of_process() {
  static auto* turns = new Turns;  // never destroyed: threads may outlive the end of `main`
  return *turns;
}

void Turns::take() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!taken_ && queue_.empty()) {
    taken_ = true;
    return;
  }
  Waiting waiting;
  queue_.push_back(&waiting);
  waiting.called.wait(lock, [&] { return waiting.served; });
}

bool Turns::take_until(Clock::time_point deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!taken_ && queue_.empty()) {
    taken_ = true;
    return true;
  }
  Waiting waiting;
  queue_.push_back(&waiting);
  if (waiting.called.wait_until(lock, deadline, [&] { return waiting.served; })) return true;
  queue_.erase(std::find(queue_.begin(), queue_.end(), &waiting));
  return false;
}

void Turns::give() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (queue_.empty()) {
    taken_ = false;
    return;
  }
  // Handed over rather than set free: whoever gives it up would often be the quickest to take it again. Under the
  // lock, because the waiting one's condition goes with its stack.
  queue_.front()->served = true;
  queue_.front()->called.notify_one();
  queue_.pop_front();
}

}  // namespace express
