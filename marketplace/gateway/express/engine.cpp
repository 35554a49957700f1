#include "engine.hpp"

#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace express::net {

namespace {

constexpr std::size_t kMostKept = 64;  // wire.py, _IDLE_KEPT

// `upstream.py` tells a connection that nobody answers from one that is refused.
Failure unreached(int number) { return number == ETIMEDOUT ? Failure::silent : Failure::unreachable; }

}  // namespace

// Journeys.

Journey::Journey(EnginePool& pool, std::string request, bool push, Reader* reader)
    : pool_(pool), request_(std::move(request)), push_(push), reader_(reader), place_(pool.journeys_.size()) {
  pool.journeys_.push_back(this);
}

void Journey::over() {
  auto& journeys = pool_.journeys_;
  journeys[place_] = journeys.back();
  journeys[place_]->place_ = place_;
  journeys.pop_back();
  over_ = true;
  carrier_ = nullptr;
  pool_.poller_.bury(this);
}

void Journey::cut_off() {
  if (over_) return;
  Carrier* carrier = carrier_;
  over();
  if (carrier != nullptr) carrier->close();
}

void Journey::pause() {
  paused_ = true;
  if (carrier_ != nullptr) carrier_->interest();
}

void Journey::resume() {
  if (!paused_) return;
  paused_ = false;
  if (carrier_ == nullptr) return;
  if (!carrier_->connecting_) carrier_->heard_at_ = carrier_->poller_.now();
  carrier_->interest();
}

// Connections.

Carrier::Carrier(EnginePool& pool, int fd, Journey& journey)
    : Watched(pool.poller_, fd), pool_(pool), journey_(&journey), heard_at_(pool.poller_.now()) {
  journey.carrier_ = this;
  interest();
}

void Carrier::ready(std::uint32_t events) {
  if (connecting_) {
    connected(events);
    return;
  }
  if (journey_ == nullptr) {
    close();  // it ends, or tells what nobody has asked for
    return;
  }
  if (events & EPOLLOUT) send_on();
  if (!journey_->paused_ && (events & ~static_cast<std::uint32_t>(EPOLLOUT))) read();
}

void Carrier::connected(std::uint32_t events) {
  int number = 0;
  socklen_t size = sizeof number;
  if (getsockopt(fd(), SOL_SOCKET, SO_ERROR, &number, &size) < 0) number = errno;
  if (number != 0) {
    fail(unreached(number));
  } else if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
    fail(Failure::unreachable);  // accepted by the system, and by no engine
  } else if (events & EPOLLOUT) {
    connecting_ = false;
    carry(*journey_);
  }
}

void Carrier::carry(Journey& journey) {
  journey_ = &journey;
  journey.carrier_ = this;
  journey.sent_ = true;
  sent_ = 0;
  ended_ = false;
  heard_at_ = poller_.now();
  reader_.begin(journey.push_);
  send_on();
  if (!dead()) interest();
}

void Carrier::send_on() {
  const std::string& request = journey_->request_;
  if (sent_ >= request.size()) return;
  const ssize_t size = ::send(fd(), request.data() + sent_, request.size() - sent_, MSG_NOSIGNAL);
  if (size >= 0) {
    sent_ += static_cast<std::size_t>(size);
  } else if (errno != EAGAIN && errno != EINTR) {
    // The engine reads no further. What it has said is still to be read; then comes the end, or an error.
    ended_ = true;
  }
  interest();
}

void Carrier::read() {
  char* const bytes = poller_.scratch();
  const ssize_t size = recv(fd(), bytes, Poller::kScratchSize, 0);
  if (size < 0) {
    if (errno != EAGAIN && errno != EINTR) fail(Failure::broken);
    return;
  }
  heard_at_ = poller_.now();
  if (size == 0) {
    ended_ = true;
    go_on(reader_.end());
    return;
  }
  full_ = static_cast<std::size_t>(size) == Poller::kScratchSize;
  if (sent_ == journey_->request_.size()) {
    // It will not be sent again: a stream need not hold it.
    std::string().swap(journey_->request_);
    sent_ = 0;
  }
  const AnswerReader::State state = reader_.feed(bytes, static_cast<std::size_t>(size));
  if (state != AnswerReader::State::broken && !reader_.piece().empty()) {
    const Journey* journey = journey_;
    journey_->reader_->piece(reader_.piece());
    if (journey_ != journey) return;  // cut off
  }
  go_on(state);
}

void Carrier::go_on(AnswerReader::State state) {
  switch (state) {
    case AnswerReader::State::more:
      interest();
      break;
    case AnswerReader::State::done:
      landed();
      break;
    case AnswerReader::State::broken:
      fail(Failure::broken);
      break;
  }
}

void Carrier::landed() {
  Journey& journey = *journey_;
  Answer answer = std::move(reader_.answer);
  // Where a read was full, more may have come behind the answer.
  const bool keeps = reader_.keeps() && reader_.rest() == 0 && !full_ && !ended_ && sent_ == journey.request_.size();
  journey_ = nullptr;
  if (keeps) {
    pool_.keep(*this);
  } else {
    close();
  }
  journey.over();
  journey.reader_->landed(std::move(answer));
}

void Carrier::fail(Failure failure) {
  Journey& journey = *journey_;
  const bool again = failure == Failure::broken && journey.again_ && !reader_.reached();
  close();
  if (again) {
    // Once: a request that breaks its engine must not be sent down every connection.
    journey.again_ = false;
    pool_.connect(journey);
  } else {
    journey.over();
    journey.reader_->broke(failure);
  }
}

void Carrier::close() {
  if (journey_ != nullptr) journey_->carrier_ = nullptr;
  journey_ = nullptr;
  pool_.forget(*this);
  die();
}

void Carrier::patience(double now_s) {
  const double quiet_s = now_s - heard_at_;
  if (journey_ == nullptr) {
    if (quiet_s > pool_.settings_.kept_s) close();
  } else if (connecting_) {
    if (quiet_s > pool_.settings_.connect_s) fail(Failure::silent);
  } else if (quiet_s >= pool_.settings_.silence_s && !journey_->paused_) {
    fail(Failure::silent);
  }
}

void Carrier::interest() {
  std::uint32_t events = 0;
  if (connecting_) {
    events = EPOLLOUT | EPOLLRDHUP;
  } else if (journey_ == nullptr) {
    events = EPOLLIN;
  } else {
    if (!ended_ && sent_ < journey_->request_.size()) events |= EPOLLOUT;
    if (!journey_->paused_) events |= EPOLLIN;
  }
  want(events);
}

// Pools.

Flight* EnginePool::send(std::string request, bool push, Reader* reader) {
  auto* journey = new Journey(*this, std::move(request), push, reader);
  if (Carrier* carrier = kept()) {
    journey->again_ = true;
    carrier->carry(*journey);
  } else {
    connect(*journey);
  }
  return journey;
}

void EnginePool::forsake() {
  while (!journeys_.empty()) journeys_.back()->cut_off();
}

void EnginePool::connect(Journey& journey) {
  const int fd = socket(address_.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    fail(journey, Failure::unreachable);
    return;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address_), length_) < 0 && errno != EINPROGRESS) {
    const int number = errno;
    ::close(fd);
    fail(journey, unreached(number));
    return;
  }
  new Carrier(*this, fd, journey);
}

// Puts it off: nobody hears of a journey before they have it.
void EnginePool::fail(Journey& journey, Failure failure) {
  poller_.later([&journey, failure] {
    if (journey.over_) return;
    journey.over();
    journey.reader_->broke(failure);
  });
}

Carrier* EnginePool::kept() {
  while (!idle_.empty()) {
    Carrier* carrier = idle_.back();
    if (poller_.now() - carrier->heard_at_ <= settings_.kept_s) {
      idle_.pop_back();
      return carrier;
    }
    carrier->close();
  }
  return nullptr;
}

void EnginePool::keep(Carrier& carrier) {
  if (idle_.size() >= kMostKept) {
    carrier.close();
    return;
  }
  idle_.push_back(&carrier);
  carrier.interest();
}

void EnginePool::forget(Carrier& carrier) {
  idle_.erase(std::remove(idle_.begin(), idle_.end(), &carrier), idle_.end());
}

bool EnginePool::is_at(const sockaddr_storage& address, socklen_t length) const {
  return length == length_ && std::memcmp(&address, &address_, length) == 0;
}

}  // namespace express::net
