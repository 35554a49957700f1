// One epoll for all sockets of a worker, and the order in which what happens on them is dealt with.
//
// A round: what the system reports, then what was put off meanwhile, then those that died are freed. So nobody is
// freed while a function of theirs, or of somebody who holds them, may still be running.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "names.hpp"

namespace express::net {

class Poller;

class Mortal {  // what is freed at the end of a round
 public:
  virtual ~Mortal() = default;
};

class Watched : public Mortal {  // a descriptor, or none any more
 public:
  enum class Whose { ours, lent };  // who closes it

  Watched(Poller& poller, int fd, Whose whose = Whose::ours);
  ~Watched() override;
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  virtual void ready(std::uint32_t events) = 0;  // never called for who has died
  virtual void patience(double) {}               // called now and then with the time (s)

 protected:
  // Waits for these events, and no longer for others. Without any, not even the end of a connection is reported.
  void want(std::uint32_t events);
  void close_socket();
  void die();  // closes the descriptor; `this` is freed at the end of the round
  bool dead() const { return dead_; }
  int fd() const { return fd_; }

  Poller& poller_;

 private:
  friend class Poller;
  int fd_;
  std::uint32_t wanted_ = 0;
  const Whose whose_;
  bool dead_ = false;
  std::size_t place_ = 0;
};

class Poller {
 public:
  static constexpr std::size_t kScratchSize = 64 * 1024;

  static std::unique_ptr<Poller> make();  // null with a Python error set
  ~Poller();

  int fileno() const { return epoll_; }
  bool poll();         // false with a Python error set
  void look_around();  // asks some for their patience, all of them within about ten calls
  double now() const { return now_; }
  char* scratch() { return scratch_.get(); }  // for one read at a time; whoever is called with it copies

  // Calls `task` at the end of this round, or in one that begins at once.
  void later(std::function<void()> task);
  void bury(Mortal* mortal) { dead_.emplace_back(mortal); }
  // Tells the error that Python has set and that `whose` callback has not caught. What is no `Exception` ends `poll`.
  void caught(PyObject* whose);
  void end();  // kills all who live, calls what was put off, frees them

 private:
  friend class Watched;
  explicit Poller(int epoll) : epoll_(epoll), scratch_(new char[kScratchSize]) {}
  void settle();
  bool no_error();

  class Bell;
  int epoll_;
  bool polling_ = false;
  double now_ = 0;
  std::unique_ptr<char[]> scratch_;
  std::vector<Watched*> alive_;
  std::size_t next_ = 0;
  std::vector<std::function<void()>> later_;
  std::vector<std::unique_ptr<Mortal>> dead_;
  Bell* bell_ = nullptr;
  Ref interrupt_[3];
};

}  // namespace express::net
