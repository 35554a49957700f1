#include "poller.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

namespace express::net {

Names names;

bool make_names() {
  const std::pair<PyObject**, const char*> all[] = {
      {&names.connection, "connection"},
      {&names.idle, "idle"},
      {&names.resumed, "resumed"},
      {&names.data_received, "data_received"},
      {&names.eof_received, "eof_received"},
      {&names.connection_lost, "connection_lost"},
      {&names.pause_writing, "pause_writing"},
      {&names.resume_writing, "resume_writing"},
  };
  for (const auto& [place, name] : all) {
    if (*place == nullptr && (*place = PyUnicode_InternFromString(name)) == nullptr) return false;
  }
  return true;
}

namespace {

constexpr double kMostS = 0.001;  // then the event loop's other work is done first
constexpr int kMostEvents = 128;
constexpr std::size_t kLeastAsked = 64;

double clock_s() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

Watched::Watched(Poller& poller, int fd, Whose whose)
    : poller_(poller), fd_(fd), whose_(whose), place_(poller.alive_.size()) {
  poller.alive_.push_back(this);
}

Watched::~Watched() { close_socket(); }

void Watched::want(std::uint32_t events) {
  if (events == wanted_ || fd_ < 0) return;
  epoll_event event{};
  event.events = events;
  event.data.ptr = this;
  // Who waits for nothing is not in the epoll at all: it would report errors over and over.
  const int how = wanted_ == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
  if (epoll_ctl(poller_.epoll_, how, fd_, &event) == 0) wanted_ = events;
}

void Watched::close_socket() {
  if (fd_ < 0) return;
  // Explicitly: another process may have the same connection open, and then closing ours would not end the watch.
  want(0);
  const int fd = std::exchange(fd_, -1);
  if (whose_ == Whose::ours) close(fd);
}

void Watched::die() {
  if (dead_) return;
  dead_ = true;
  close_socket();
  auto& alive = poller_.alive_;
  alive[place_] = alive.back();
  alive[place_]->place_ = place_;
  alive.pop_back();
  poller_.bury(this);
}

// Makes the epoll's descriptor readable, so that the event loop calls `poll`.
class Poller::Bell final : public Watched {
 public:
  Bell(Poller& poller, int fd) : Watched(poller, fd) { want(EPOLLIN); }
  void ready(std::uint32_t) override {
    std::uint64_t count;
    if (read(fd(), &count, sizeof count) < 0) return;
    rung_ = false;
  }
  void ring() {
    if (rung_) return;
    const std::uint64_t one = 1;
    rung_ = write(fd(), &one, sizeof one) == sizeof one;
  }

 private:
  bool rung_ = false;
};

std::unique_ptr<Poller> Poller::make() {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  const int bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (epoll < 0 || bell < 0) {
    PyErr_SetFromErrno(PyExc_OSError);
    if (epoll >= 0) close(epoll);
    if (bell >= 0) close(bell);
    return nullptr;
  }
  std::unique_ptr<Poller> poller(new Poller(epoll));
  poller->now_ = clock_s();
  poller->bell_ = new Bell(*poller, bell);
  return poller;
}

Poller::~Poller() {
  end();
  close(epoll_);
}

void Poller::end() {
  polling_ = true;  // nobody rings any more
  // From the back: who dies is replaced by the last.
  while (!alive_.empty()) alive_.back()->die();
  settle();
}

bool Poller::poll() {
  if (polling_) return true;  // called by somebody whom we have called
  polling_ = true;
  epoll_event events[kMostEvents];
  now_ = clock_s();
  const double until = now_ + kMostS;
  while (true) {
    const int count = epoll_wait(epoll_, events, kMostEvents, 0);
    for (int i = 0; i < count; ++i) {
      auto* watched = static_cast<Watched*>(events[i].data.ptr);
      if (!watched->dead_) watched->ready(events[i].events);
    }
    settle();
    if (count <= 0 || interrupt_[0]) break;
    now_ = clock_s();
    if (now_ >= until) break;
  }
  polling_ = false;
  return no_error();
}

void Poller::look_around() {
  if (polling_) return;
  polling_ = true;
  now_ = clock_s();
  const std::size_t some = std::max(kLeastAsked, alive_.size() / 10 + 1);
  for (std::size_t left = std::min(some, alive_.size()); left > 0 && !alive_.empty(); --left) {
    if (next_ >= alive_.size()) next_ = 0;
    alive_[next_++]->patience(now_);
  }
  settle();
  polling_ = false;
  if (interrupt_[0]) bell_->ring();  // `poll` tells it
}

void Poller::later(std::function<void()> task) {
  later_.push_back(std::move(task));
  if (!polling_) bell_->ring();
}

void Poller::settle() {
  do {
    while (!later_.empty()) {
      std::vector<std::function<void()>> tasks;
      tasks.swap(later_);
      for (const auto& task : tasks) task();
    }
    // What they hold of Python's may have something to say at its end, and put off more.
    std::vector<std::unique_ptr<Mortal>> dead;
    dead.swap(dead_);
  } while (!later_.empty() || !dead_.empty());
}

void Poller::caught(PyObject* whose) {
  if (PyErr_ExceptionMatches(PyExc_Exception) || interrupt_[0]) {
    PyErr_WriteUnraisable(whose);
    return;
  }
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  interrupt_[0] = Ref(type);
  interrupt_[1] = Ref(value);
  interrupt_[2] = Ref(trace);
}

bool Poller::no_error() {
  if (!interrupt_[0]) return true;
  PyErr_Restore(interrupt_[0].release(), interrupt_[1].release(), interrupt_[2].release());
  return false;
}

}  // namespace express::net
