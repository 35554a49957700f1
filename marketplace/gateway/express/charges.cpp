#include "charges.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <thread>

#include "company.hpp"
#include "ledger_session.hpp"
#include "turns.hpp"

namespace express {

namespace {

using Clock = Turns::Clock;
using std::chrono::milliseconds;

constexpr std::size_t kMostAtOnce = 512;
// How long one sleeps between two looks at somebody else's lock: what SQLite's own busy handler does.
constexpr int kDelaysMs[] = {1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100};

class Writer final : public ChargeWriter {
 public:
  Writer(const SqliteLibrary& library, std::string path, i64 lane, i64 clearing, int patience_ms)
      : library_(library), path_(std::move(path)), lane_(lane), clearing_(clearing), patience_ms_(patience_ms) {}
  ~Writer() override {
    close();
    if (ready_ >= 0) ::close(ready_);
  }

  bool start(std::string& why) {
    ready_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (ready_ < 0) {
      why = "No event descriptor is to be had.";
      return false;
    }
    try {
      open_session();
      if (!session_->booking().has_lane()) {
        why = "There is no such lane in the ledger.";
        return false;
      }
      batch_.reserve(kMostAtOnce);
      charges_.reserve(kMostAtOnce);
      outcomes_.reserve(kMostAtOnce);
      begin_thread();
    } catch (const SqliteError& error) {
      why = std::string("SQLite cannot open the ledger: ") + library_.errstr(error.code) + ".";
      return false;
    } catch (const std::exception& error) {
      why = error.what();
      return false;
    }
    return true;
  }

  void send(std::unique_ptr<Charge> charge) override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (closing_) {
      answered_.emplace_back(std::move(charge), Outcome::unsure);
      eventfd_write(ready_, 1);
      return;
    }
    queue_.push_back(std::move(charge));
    if (wanted_ == 0 || queue_.size() < wanted_) return;
    wanted_ = 0;
    lock.unlock();
    wake_.notify_one();
  }

  void collect(std::vector<Answered>& answered) override {
    std::lock_guard<std::mutex> lock(mutex_);
    eventfd_t told;
    eventfd_read(ready_, &told);
    for (Answered& each : answered_) answered.push_back(std::move(each));
    answered_.clear();
  }

  int ready() const override { return ready_; }

  std::size_t queued() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return queue_.size();
  }

  void close() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closing_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

 private:
  using Batch = std::vector<std::unique_ptr<Charge>>;
  enum class Try { done, taken, spoiled, away };

  void begin_thread() {
    // Signals are for the threads of the interpreter.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      thread_ = std::thread([this] { run(); });
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_setname_np(thread_.native_handle(), "ledger-charges");
  }

  void run() {
    while (wait_for_charges()) {
      deadline_ = Clock::now() + milliseconds(patience_ms_);
      // While we waited for our turn and the lock, more have come.
      bool begun = begin();
      take_batch();
      outcomes_.assign(batch_.size(), Outcome::unsure);
      if (begun) book(0, batch_.size(), false);
      deliver();
      if (session_ != nullptr) session_->tidy();
    }
    session_.reset();
  }

  // False when there is nothing left to do, ever.
  bool wait_for_charges() {
    std::unique_lock<std::mutex> lock(mutex_);
    wait_until(lock, 1, nullptr);
    if (queue_.empty()) return false;
    if (std::size_t expected = company_.expected(queue_.size())) {
      auto until = Clock::now() + Company::kWait;
      wait_until(lock, std::min(expected, kMostAtOnce), &until);
    }
    return true;
  }

  void wait_until(std::unique_lock<std::mutex>& lock, std::size_t wanted, const Clock::time_point* until) {
    auto enough = [&] { return closing_ || queue_.size() >= wanted; };
    while (!enough()) {
      wanted_ = wanted;
      if (until == nullptr) {
        wake_.wait(lock);
      } else if (wake_.wait_until(lock, *until) == std::cv_status::timeout) {
        break;
      }
    }
    wanted_ = 0;
  }

  void take_batch() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::size_t count = std::min(queue_.size(), kMostAtOnce);
    company_.began(count, monotonic_s());
    batch_.clear();
    charges_.clear();
    for (; count > 0; --count) {
      batch_.push_back(std::move(queue_.front()));
      charges_.push_back(batch_.back().get());
      queue_.pop_front();
    }
  }

  void deliver() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      company_.answered(batch_.size(), queue_.size());
      for (std::size_t n = 0; n < batch_.size(); ++n) answered_.emplace_back(std::move(batch_[n]), outcomes_[n]);
    }
    batch_.clear();
    eventfd_write(ready_, 1);
  }

  // Books these in one transaction or, where one of them spoils it, in several: it alone is unsure.
  void book(std::size_t first, std::size_t count, bool careful) {
    switch (attempt(first, count, careful)) {
      case Try::done:
        return;
      case Try::taken:
        if (!careful) return book(first, count, true);
        break;
      case Try::spoiled:
        break;
      case Try::away:
        std::fill_n(outcomes_.begin() + first, count, Outcome::unsure);
        return;
    }
    if (count == 1) {
      outcomes_[first] = Outcome::unsure;
      return;
    }
    book(first, count / 2, careful);
    book(first + count / 2, count - count / 2, careful);
  }

  // One transaction, which may have begun.
  Try attempt(std::size_t first, std::size_t count, bool careful) {
    if (!begin()) return Try::away;
    bool to_sync = false;
    try {
      to_sync = session_->booking().book(&charges_[first], count, careful, &outcomes_[first]);
      session_->commit();
    } catch (const SqliteError& error) {
      return end_badly(error.code);
    } catch (const LedgerCorrupt&) {
      return end_badly(sqlite::CONSTRAINT);
    } catch (const std::bad_alloc&) {
      return end_badly(kNoMemory);
    }
    // The log is synced while the lock is free: other processes have their turn meanwhile.
    Turns::of_process().give();
    if (!to_sync || session_->sync()) return Try::done;
    distrusts_log_ = true;
    if (trusts_log()) return Try::done;
    session_.reset();
    return Try::away;
  }

  Try end_badly(int code) {
    bool kept = session_->roll_back();
    Turns::of_process().give();
    int kind = sqlite::kind_of(code);
    bool charges_fault = kind == sqlite::CONSTRAINT || kind == sqlite::MISMATCH || kind == sqlite::TOOBIG;
    if (!kept || !charges_fault) session_.reset();
    if (!charges_fault) return Try::away;
    return code == sqlite::UNIQUE || code == sqlite::PRIMARY_KEY ? Try::taken : Try::spoiled;
  }

  // Begins a transaction, with our turn and the lock, unless it has begun; false when the database is away or
  // others have it until the deadline. Waiting for other processes is done without our turn.
  bool begin() {
    try {
      if (session_ == nullptr) open_session();
      if (session_->in_transaction()) return true;
      if (!trusts_log()) return give_up();
      for (std::size_t tried = 0;; ++tried) {
        if (!Turns::of_process().take_until(deadline_)) return false;
        if (begin_in_turn()) return true;
        auto delay = milliseconds(kDelaysMs[std::min(tried, std::size(kDelaysMs) - 1)]);
        if (Clock::now() + delay > deadline_) return false;
        std::this_thread::sleep_for(delay);
      }
    } catch (const SqliteError&) {
      return give_up();
    } catch (const std::bad_alloc&) {
      return give_up();
    }
  }

  bool begin_in_turn() {
    bool begun = false;
    try {
      begun = session_->begin();
    } catch (const SqliteError&) {
      Turns::of_process().give();
      throw;
    }
    if (!begun) Turns::of_process().give();
    return begun;
  }

  bool give_up() {
    session_.reset();
    return false;
  }

  void open_session() { session_ = std::make_unique<LedgerSession>(library_, path_, lane_, clearing_, patience_ms_); }

  // After a sync that has failed, the system may say of later ones that they did well while the log has a hole
  // (it tells of an error once, and takes the pages for written). Then nothing is booked before all that is in the
  // log has been brought into the database.
  bool trusts_log() {
    if (distrusts_log_) distrusts_log_ = !session_->empty_log();
    return !distrusts_log_;
  }

  static constexpr int kNoMemory = 7;

  const SqliteLibrary& library_;
  const std::string path_;
  const i64 lane_, clearing_;
  const int patience_ms_;
  int ready_ = -1;

  // Between the two threads.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Charge>> queue_;
  std::vector<Answered> answered_;
  std::size_t wanted_ = 0;  // how many queued charges wake the thread; 0 while it is awake
  bool closing_ = false;

  // Of the writing thread.
  std::thread thread_;
  std::unique_ptr<LedgerSession> session_;
  Company company_;
  Clock::time_point deadline_;
  bool distrusts_log_ = false;
  Batch batch_;
  std::vector<Charge*> charges_;
  std::vector<Outcome> outcomes_;
};

}  // namespace

std::unique_ptr<ChargeWriter> ChargeWriter::open(const std::string& path, i64 lane, i64 clearing, std::string& why,
                                                 double patience_s) {
  const SqliteLibrary* library = SqliteLibrary::of_python(why);
  if (library == nullptr) return nullptr;
  int patience_ms = static_cast<int>(std::clamp(patience_s, 0.0, 1e6) * 1000);
  auto writer = std::make_unique<Writer>(*library, path, lane, clearing, patience_ms);
  if (!writer->start(why)) return nullptr;
  return writer;
}

}  // namespace express
