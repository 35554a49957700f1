#include "client.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "http.hpp"

namespace express::net {

namespace {

constexpr std::size_t kMostAhead = 64 * 1024;
constexpr std::size_t kSmall = 4 * 1024;  // what an idle connection may keep of a buffer

// Empties a buffer, and gives its memory back where that is worth it.
void clear(std::string& buffer) {
  if (buffer.capacity() > kSmall) {
    std::string().swap(buffer);
  } else {
    buffer.clear();
  }
}

View without_empty_lines(View bytes) {
  while (!bytes.empty() && (bytes.front() == '\r' || bytes.front() == '\n')) bytes.remove_prefix(1);
  return bytes;
}

socklen_t size_of(const Address& address) {
  return address.any.sa_family == AF_INET6 ? sizeof address.v6 : sizeof address.v4;
}

// The host as numbers, with the zone that an address of this link only has; '' for what is no IP.
std::string host_of(const Address& address) {
  char host[NI_MAXHOST];
  if (address.any.sa_family != AF_INET && address.any.sa_family != AF_INET6) return {};
  const int failed = getnameinfo(&address.any, size_of(address), host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  return failed ? std::string() : std::string(host);
}

Ref tuple_of(const Address& address) {
  const std::string host = host_of(address);
  if (host.empty()) return {};
  if (address.any.sa_family == AF_INET) {
    return Ref(Py_BuildValue("si", host.c_str(), static_cast<int>(ntohs(address.v4.sin_port))));
  }
  return Ref(Py_BuildValue("siII", host.c_str(), static_cast<int>(ntohs(address.v6.sin6_port)),
                           static_cast<unsigned>(ntohl(address.v6.sin6_flowinfo)),
                           static_cast<unsigned>(address.v6.sin6_scope_id)));
}

}  // namespace

ClientSocket::ClientSocket(House& house, int fd, const Address& peer)
    : Watched(house.poller, fd),
      house_(house),
      peer_(peer),
      heard_at_(house.poller.now()),
      place_(house.clients.size()) {
  house.clients.push_back(this);
  interest();
}

// What the system reports.

void ClientSocket::ready(std::uint32_t events) {
  if (events & EPOLLOUT) flush();
  if (stage_ == Stage::over || gone_ || !(events & ~static_cast<std::uint32_t>(EPOLLOUT))) return;
  if (events & EPOLLIN) {
    read();
  } else if (stage_ == Stage::taken || (stage_ == Stage::reading && !closing_)) {
    // Nothing is read now (too much was sent ahead), and the client has gone all the same.
    ended();
  }
}

void ClientSocket::read() {
  std::size_t room = Poller::kScratchSize;
  if (stage_ == Stage::taken || slow_) room = std::min(room, kMostAhead - std::min(kMostAhead, ahead_.size()));
  if (room == 0) return;
  const ssize_t size = recv(fd(), poller_.scratch(), room, 0);
  if (size > 0) {
    received({poller_.scratch(), static_cast<std::size_t>(size)});
  } else if (size == 0) {
    ended();
  } else if (errno != EAGAIN && errno != EINTR) {
    failed(errno);
  }
}

void ClientSocket::received(View bytes) {
  switch (stage_) {
    case Stage::taken:
      ahead_.append(bytes);
      interest();
      break;
    case Stage::python:
      // A client that does not read its answers is not served the next one (`door.Connection._in_turn`).
      if (slow_ || !idle()) {
        if (stage_ == Stage::python) feed(bytes);
      } else if (stage_ == Stage::python) {
        look(bytes);
      }
      break;
    case Stage::reading:
      // Behind what was read before and has not been looked at yet: it will be in this round (`advance`).
      if (slow_ || !ahead_.empty()) {
        ahead_.append(bytes);
        interest();
      } else {
        look(bytes);
      }
      break;
    case Stage::over:
      break;
  }
}

// Is it a whole plain request?

void ClientSocket::look(View bytes) {
  if (request_.empty()) {
    // Some clients send an empty line behind a body; it is no request, and keeps no connection open.
    bytes = without_empty_lines(bytes);
    if (bytes.empty()) return;
    began_at_ = poller_.now();
  }
  heard_at_ = poller_.now();
  if (whole_ > 0 && request_.capacity() < whole_) {
    // As much again as has come, so that neither time nor memory is spent on what was only announced.
    request_.reserve(std::min(whole_ + bytes.size(), std::max(2 * request_.size(), request_.size() + bytes.size())));
  }
  request_.append(bytes);
  consider();
}

void ClientSocket::consider() {
  if (!whole()) return;
  if (request_.size() > whole_) {
    ahead_.assign(request_, whole_, std::string::npos);
    request_.resize(whole_);
  }
  take();
}

bool ClientSocket::whole() {
  if (whole_ == 0) {
    const Plain plain = begins_plainly(request_);
    if (plain == Plain::no) {
      to_python();
      return false;
    }
    const std::size_t head = plain == Plain::yes ? size_of_head(request_, looked_) : 0;
    looked_ = request_.size();
    PlainHead told;
    if (head == 0) {
      if (request_.size() > kLargestPlainHead) {
        to_python();
      } else {
        wait();
      }
      return false;
    }
    if (!read_plain(View(request_).substr(0, head), told) || told.length > house_.settings.body_limit) {
      to_python();
      return false;
    }
    authorization_size_ = told.authorization.size();
    authorization_at_ = authorization_size_ ? static_cast<std::size_t>(told.authorization.data() - request_.data()) : 0;
    head_ = head;
    whole_ = head + told.length;
  }
  if (request_.size() >= whole_) return true;
  wait();
  return false;
}

// The rest has still to come. A protocol that is idle would find the connection so.
void ClientSocket::wait() {
  if (stage_ == Stage::python) {
    detach();
    stage_ = Stage::reading;
  }
  interest();
}

void ClientSocket::take() {
  const Stage before = std::exchange(stage_, Stage::taken);
  told_slow_ = false;
  const View all(request_);
  const Head head{all.substr(authorization_at_, authorization_size_)};
  const bool taken = house_.lane != nullptr && house_.lane->takes(*this, head, all.substr(head_));
  if (!taken) {
    if (stage_ != Stage::taken) return;
    stage_ = before;
    to_python();
    return;
  }
  // It may have been answered, or given up, by now.
  if (transport_ && stage_ != Stage::python && stage_ != Stage::over) detach();
  interest();
}

void ClientSocket::reset() {
  clear(request_);
  looked_ = head_ = whole_ = authorization_at_ = authorization_size_ = 0;
}

void ClientSocket::advance() {
  if (stage_ != Stage::reading || slow_ || closing_ || !request_.empty() || ahead_.empty()) return;
  std::string bytes;
  bytes.swap(ahead_);
  look(bytes);
  interest();
}

void ClientSocket::adopted(View read) {
  if (read.empty()) return;
  ahead_.assign(read);
  poller_.later([this] { advance(); });
}

// What the lane calls.

void ClientSocket::write(View bytes) {
  if (stage_ != Stage::taken || gone_) return;
  if (!put(bytes)) {
    leave();
  } else if (!slow_ && unsent() > kHighWater) {
    slow_ = true;
    stalled_at_ = poller_.now();
    // Later: the lane is in the middle of something, and this may be the last that it writes.
    poller_.later([this] {
      if (stage_ != Stage::taken || gone_ || !slow_ || told_slow_ || house_.lane == nullptr) return;
      told_slow_ = true;
      house_.lane->slow(*this, true);
    });
  }
}

View ClientSocket::peer() {
  if (name_.empty()) {
    name_ = host_of(peer_);
    if (name_.compare(0, 7, "::ffff:") == 0) name_.erase(0, 7);
  }
  return name_;
}

void ClientSocket::done() {
  if (stage_ != Stage::taken) return;
  call = nullptr;
  if (gone_) {
    finish({});
    return;
  }
  stage_ = Stage::reading;
  heard_at_ = poller_.now();  // a client may be idle from when it has its answer
  reset();
  if (house_.closing) {
    clear(ahead_);  // this was the last answer (`door.Connection._go_on`)
    close_when_idle();
    return;
  }
  // Not at once: the lane is in the middle of something, and might be asked by its own answer.
  if (!ahead_.empty()) poller_.later([this] { advance(); });
  interest();
}

bool ClientSocket::give_up(PyObject* resumed) {
  if (stage_ != Stage::taken) return false;
  call = nullptr;
  stage_ = Stage::python;
  const bool gone = gone_;
  if (!attach()) return false;
  if (PyObject_SetAttr(protocol_.get(), names.resumed, resumed == nullptr ? Py_None : resumed) < 0) {
    poller_.caught(protocol_.get());
    finish({});
    return false;
  }
  request_.append(ahead_);
  std::string bytes;
  bytes.swap(request_);
  clear(ahead_);
  reset();
  feed(bytes);
  if (stage_ != Stage::python) return true;
  if (gone) {
    finish({});
  } else if (slow_ && !closing_) {
    // Behind the request: a protocol that knows this before would let the request wait.
    tell(names.pause_writing);
  }
  interest();
  return true;
}

void ClientSocket::break_off() {
  if (stage_ == Stage::taken) finish({});
}

// Python's side.

bool ClientSocket::attach() {
  if (protocol_) return true;
  transport_ = new_transport(this);
  if (transport_) {
    protocol_ = Ref(PyObject_CallMethodOneArg(house_.hooks.get(), names.connection, transport_.get()));
  }
  if (protocol_) return true;
  poller_.caught(house_.hooks.get());
  finish({});
  return false;
}

// Ends an idle protocol: it may not notice what becomes of the connection.
void ClientSocket::detach() {
  uproot(transport_.get());
  transport_ = {};
  say_lost(std::move(protocol_), {});
  protocol_ = {};
  paused_ = end_wanted_ = false;
}

bool ClientSocket::idle() {
  const Ref told = Ref(PyObject_GetAttr(protocol_.get(), names.idle));
  const int idle = told ? PyObject_IsTrue(told.get()) : -1;
  if (idle < 0) poller_.caught(protocol_.get());
  return idle > 0 && !closing_ && !paused_ && !end_wanted_ && !end_sent_;
}

void ClientSocket::to_python() {
  stage_ = Stage::python;
  if (!attach()) return;
  std::string bytes;
  bytes.swap(request_);
  bytes.append(ahead_);
  clear(ahead_);
  reset();
  if (stage_ == Stage::python && !closing_) feed(bytes);
  if (stage_ == Stage::python) interest();
}

void ClientSocket::feed(View bytes) {
  const Ref data = express::bytes(bytes);
  if (data) {
    tell(names.data_received, data.get());
  } else {
    poller_.caught(protocol_.get());
    finish({});
  }
}

// An error of the protocol's ends its connection, and no other.
Ref ClientSocket::tell(PyObject* name, PyObject* argument) {
  const Ref protocol = protocol_;
  Ref told = Ref(argument == nullptr ? PyObject_CallMethodNoArgs(protocol.get(), name)
                                     : PyObject_CallMethodOneArg(protocol.get(), name, argument));
  if (told) return told;
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  const Ref error = Ref::share(value);
  PyErr_Restore(type, value, trace);
  poller_.caught(protocol.get());
  finish(error);
  return {};
}

void ClientSocket::say_lost(Ref protocol, Ref error) {
  Poller& poller = poller_;
  poller_.later([&poller, protocol = std::move(protocol), error = std::move(error)] {
    PyObject* told = error ? error.get() : Py_None;
    const Ref heard = Ref(PyObject_CallMethodOneArg(protocol.get(), names.connection_lost, told));
    if (!heard) poller.caught(protocol.get());
  });
}

// What Python's transport calls.

void ClientSocket::send(View bytes) {
  if (stage_ != Stage::python || gone_ || end_wanted_ || end_sent_) return;
  // `closing_` stops nobody: asyncio's transports also send what is written between `close` and the end.
  if (!put(bytes)) {
    finish(os_error(errno));
  } else if (!slow_ && unsent() > kHighWater) {
    slow_ = true;
    tell(names.pause_writing);
  }
}

void ClientSocket::close() {
  if (stage_ != Stage::python || closing_) return;
  closing_ = true;
  if (unsent() == 0) {
    finish({});
  } else {
    interest();
  }
}

void ClientSocket::abort() {
  if (stage_ == Stage::python) finish({});
}

void ClientSocket::read_on(bool on) {
  if (stage_ != Stage::python) return;
  paused_ = !on;
  interest();
}

void ClientSocket::write_end() {
  if (stage_ != Stage::python || end_wanted_ || gone_) return;
  end_wanted_ = true;
  sent_some();
}

Ref ClientSocket::address(bool peer) const {
  if (peer) return tuple_of(peer_);
  Address own{};
  socklen_t size = sizeof own;
  return getsockname(fd(), &own.any, &size) == 0 ? tuple_of(own) : Ref();
}

// Sending.

// False when the connection is broken, with `errno` set.
bool ClientSocket::put(View bytes) {
  if (unsent() == 0) {
    const ssize_t size = ::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (size < 0 && errno != EAGAIN && errno != EINTR) return false;
    bytes.remove_prefix(size < 0 ? 0 : static_cast<std::size_t>(size));
    if (bytes.empty()) return true;
    stalled_at_ = poller_.now();
  }
  if (out_at_ > out_.size() / 2) {
    out_.erase(0, out_at_);
    out_at_ = 0;
  }
  out_.append(bytes);
  interest();
  return true;
}

void ClientSocket::flush() {
  if (unsent() == 0) return;
  const ssize_t size = ::send(fd(), out_.data() + out_at_, unsent(), MSG_NOSIGNAL);
  if (size < 0) {
    if (errno != EAGAIN && errno != EINTR) failed(errno);
    return;
  }
  out_at_ += static_cast<std::size_t>(size);
  // As at the door, who is slow has its time for all that there is to read, and not for each bit of it.
  if (!slow_) stalled_at_ = poller_.now();
  sent_some();
}

// Goes on after something has left.
void ClientSocket::sent_some() {
  if (unsent() == 0) {
    clear(out_);
    out_at_ = 0;
    if (closing_) {
      finish({});
      return;
    }
    if (end_wanted_ && !end_sent_) {
      end_sent_ = true;
      shutdown(fd(), SHUT_WR);
    }
  }
  if (slow_ && unsent() <= kLowWater) {
    slow_ = false;
    if (stage_ == Stage::taken) {
      if (std::exchange(told_slow_, false) && house_.lane != nullptr) house_.lane->slow(*this, false);
    } else if (stage_ == Stage::python) {
      tell(names.resume_writing);
    } else {
      advance();
    }
  }
  if (stage_ != Stage::over) interest();
}

// Ends.

void ClientSocket::ended() {
  switch (stage_) {
    case Stage::taken:
      leave();
      break;
    case Stage::reading:
      // There is no half of a call; what was answered may still leave.
      deaf_ = closing_ = true;
      if (unsent() == 0) {
        finish({});
      } else {
        interest();
      }
      break;
    case Stage::python: {
      deaf_ = true;
      const Ref told = tell(names.eof_received);
      const int stays = told ? PyObject_IsTrue(told.get()) : 1;
      if (stays < 0) PyErr_Clear();
      if (stays <= 0) close();
      if (stage_ == Stage::python) interest();
      break;
    }
    case Stage::over:
      break;
  }
}

void ClientSocket::failed(int number) {
  if (stage_ == Stage::taken) {
    leave();
  } else if (stage_ != Stage::over) {
    finish(stage_ == Stage::python ? os_error(number) : Ref());
  }
}

void ClientSocket::leave() {
  if (gone_) return;
  gone_ = true;
  close_socket();
  clear(out_);
  out_at_ = 0;
  // Later: it may have been noticed inside a `write` of the lane's.
  poller_.later([this] {
    if (stage_ == Stage::taken && house_.lane != nullptr) house_.lane->left(*this);
  });
}

void ClientSocket::finish(Ref error) {
  if (stage_ == Stage::over) return;
  stage_ = Stage::over;
  gone_ = true;
  if (transport_) uproot(transport_.get());
  if (protocol_) say_lost(std::move(protocol_), std::move(error));
  protocol_ = {};
  auto& clients = house_.clients;
  clients[place_] = clients.back();
  clients[place_]->place_ = place_;
  clients.pop_back();
  die();
}

void ClientSocket::close_when_idle() {
  if (stage_ != Stage::reading || !request_.empty() || !ahead_.empty()) return;
  closing_ = true;
  sent_some();
}

void ClientSocket::forsake() { finish({}); }

void ClientSocket::patience(double now_s) {
  if (stage_ == Stage::over || gone_) return;
  // Who has a protocol is its door's to judge, until that has said its last word.
  if (unsent() > 0 && (stage_ != Stage::python || closing_)) {
    if (now_s - stalled_at_ > house_.settings.stall_s) {
      failed(ETIMEDOUT);
      return;
    }
  }
  if (stage_ != Stage::reading || closing_ || slow_) return;
  if (!request_.empty()) {
    if (now_s - began_at_ > house_.settings.half_s) to_python();
  } else if (ahead_.empty() && now_s - heard_at_ > house_.settings.idle_s) {
    closing_ = true;
    sent_some();
  }
}

void ClientSocket::interest() {
  if (stage_ == Stage::over || gone_) return;
  std::uint32_t events = unsent() > 0 ? static_cast<std::uint32_t>(EPOLLOUT) : 0;
  if (stage_ == Stage::python) {
    if (!paused_ && !closing_ && !deaf_) events |= EPOLLIN;
  } else if (!closing_) {
    const bool full = (stage_ == Stage::taken || slow_) && ahead_.size() >= kMostAhead;
    events |= full ? EPOLLRDHUP : EPOLLIN;
  }
  want(events);
}

}  // namespace express::net
