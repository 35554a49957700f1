#include "wire.hpp"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client.hpp"
#include "engine.hpp"

namespace express {

namespace net {
namespace {

constexpr int kMostAccepted = 32;     // at once, so that those who are connected need not wait
constexpr time_t kBreathS = 1;        // until it is tried again, where the system has no descriptor left

void speak_at_once(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

class Listener;

// Wakes a listener that rests. A timer of its own, and not `patience`: nobody need look around while there is no
// connection, and it is made in time, because it needs a descriptor itself.
class Waker final : public Watched {
 public:
  Waker(Poller& poller, Listener& listener)
      : Watched(poller, timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)), listener_(listener) {
    want(EPOLLIN);
  }
  void ready(std::uint32_t) override;
  void stop() { die(); }
  bool rings_after_breath() {
    itimerspec once{};
    once.it_value.tv_sec = kBreathS;
    return timerfd_settime(fd(), 0, &once, nullptr) == 0;
  }

 private:
  Listener& listener_;
};

class Listener final : public Watched {
 public:
  Listener(House& house, int fd)
      : Watched(house.poller, fd, Whose::lent), house_(house), waker_(new Waker(house.poller, *this)) {
    listen();
  }

  void listen() { want(EPOLLIN); }

  void ready(std::uint32_t) override {
    for (int left = kMostAccepted; left > 0; --left) {
      Address peer{};
      socklen_t size = sizeof peer;
      const int came = accept4(fd(), &peer.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (came >= 0) {
        speak_at_once(came);
        new ClientSocket(house_, came, peer);
        continue;
      }
      if (errno == ECONNABORTED || errno == EINTR) continue;
      if (errno != EAGAIN) rest();
      return;
    }
  }

  void stop() {
    waker_->stop();
    die();
  }

 private:
  // Those who wait at the listener would be reported over and over.
  void rest() {
    PyErr_SetFromErrno(PyExc_OSError);
    poller_.caught(house_.hooks.get());
    if (waker_->rings_after_breath()) want(0);
  }

  House& house_;
  Waker* waker_;
};

void Waker::ready(std::uint32_t) {
  std::uint64_t rung;
  if (::read(fd(), &rung, sizeof rung) == sizeof rung) listener_.listen();
}

class Lookout final : public Watched {
 public:
  Lookout(Poller& poller, int fd, void (*called)(void*), void* whose)
      : Watched(poller, fd, Whose::lent), called_(called), whose_(whose) {
    want(EPOLLIN);
  }
  void ready(std::uint32_t) override { called_(whose_); }

 private:
  void (*called_)(void*);
  void* whose_;
};

class EpollWire final : public Wire {
 public:
  EpollWire(const Settings& settings, PyObject* hooks, Lane* lane, std::unique_ptr<Poller> poller)
      : poller_(std::move(poller)), house_{*poller_, lane, Ref::share(hooks), settings, false, {}} {
    if (settings.listener >= 0) listener_ = new Listener(house_, settings.listener);
  }

  ~EpollWire() override {
    house_.lane = nullptr;
    for (const auto& engine : engines_) engine->forsake();
    while (!house_.clients.empty()) house_.clients.back()->forsake();
    poller_->end();
  }

  int fileno() const override { return poller_->fileno(); }
  bool poll() override { return poller_->poll(); }

  void look_around() override {
    poller_->look_around();
    if (house_.lane != nullptr) house_.lane->tick(poller_->now());
  }

  void watch(int fd, void (*ready)(void*), void* whose) override { new Lookout(*poller_, fd, ready, whose); }

  std::shared_ptr<Engine> engine(const sockaddr_storage& address, socklen_t length) override {
    for (const auto& engine : engines_) {
      if (engine->is_at(address, length)) return engine;
    }
    // Engines come and go for as long as a worker lives.
    const auto unused = [](const auto& engine) { return engine.use_count() == 1 && engine->at_rest(); };
    engines_.erase(std::remove_if(engines_.begin(), engines_.end(), unused), engines_.end());
    engines_.push_back(std::make_shared<EnginePool>(*poller_, address, length, house_.settings));
    return engines_.back();
  }

  void adopt(int fd, View read) override {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    speak_at_once(fd);
    Address peer{};
    socklen_t size = sizeof peer;
    if (getpeername(fd, &peer.any, &size) < 0) peer.any.sa_family = AF_UNSPEC;  // it has left already
    (new ClientSocket(house_, fd, peer))->adopted(read);
  }

  void stop_listening() override {
    if (listener_ != nullptr) std::exchange(listener_, nullptr)->stop();
  }

  void close_idle() override {
    house_.closing = true;
    // From the back: who ends is replaced by the last.
    for (std::size_t place = house_.clients.size(); place > 0; --place) house_.clients[place - 1]->close_when_idle();
  }

  std::size_t connections() const override { return house_.clients.size(); }

 private:
  std::unique_ptr<Poller> poller_;
  House house_;
  Listener* listener_ = nullptr;
  std::vector<std::shared_ptr<EnginePool>> engines_;
};

}  // namespace
}  // namespace net

std::unique_ptr<Wire> Wire::make(const Settings& settings, PyObject* hooks, Lane* lane) {
  auto poller = net::Poller::make();
  if (poller == nullptr) return nullptr;
  return std::make_unique<net::EpollWire>(settings, hooks, lane, std::move(poller));
}

}  // namespace express
