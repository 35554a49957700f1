// One client: its requests are read here while they may be the lane's, and go through here when they are Python's.
#pragma once
#include <netinet/in.h>

#include <string>
#include <vector>

#include "poller.hpp"
#include "transport.hpp"
#include "wire.hpp"

namespace express::net {

class ClientSocket;

struct House {  // what all clients share
  Poller& poller;
  Lane* lane;  // null at the end, when nobody is to be called any more
  Ref hooks;
  Wire::Settings settings;
  bool closing = false;
  std::vector<ClientSocket*> clients;
};

union Address {  // of a socket; small, because every client has one
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};

class ClientSocket final : public Client, public Watched, public Ground {
 public:
  ClientSocket(House& house, int fd, const Address& peer);
  ~ClientSocket() override = default;

  void adopted(View read);     // `read` was read elsewhere; it is looked at in this round or the next
  void close_when_idle();
  void forsake();              // the end of the wire: the lane hears nothing, a protocol does

  // Watched
  void ready(std::uint32_t events) override;
  void patience(double now_s) override;

  // Client: what the lane calls
  bool gone() const override { return gone_; }
  void write(View bytes) override;
  std::size_t unsent() const override { return out_.size() - out_at_; }
  View peer() override;
  void done() override;
  bool closing() const override { return house_.closing; }
  bool give_up(PyObject* resumed) override;
  void break_off() override;

  // Ground: what Python's transport calls
  void send(View bytes) override;
  void close() override;
  void abort() override;
  bool ending() const override { return stage_ != Stage::python || gone_ || closing_; }
  void read_on(bool on) override;
  bool reading() const override { return stage_ == Stage::python && !paused_ && !closing_ && !gone_; }
  void write_end() override;
  std::size_t kept() const override { return unsent(); }
  int descriptor() const override { return fd(); }
  Ref address(bool peer) const override;
  PyObject* spoken_to() const override { return protocol_.get(); }
  void speak_to(PyObject* protocol) override { protocol_ = Ref::share(protocol); }

 private:
  // Whose the connection is: nobody's while a request is awaited or read; the lane's; Python's, which has a
  // protocol then; over.
  enum class Stage : unsigned char { reading, taken, python, over };

  void read();
  void received(View bytes);
  void look(View bytes);
  void consider();
  bool whole();          // whether the request has come whole, `to_python` not needed
  void take();
  void advance();        // looks at what was read ahead
  void reset();
  void wait();

  bool attach();
  void detach();
  bool idle();
  void to_python();
  void feed(View bytes);
  Ref tell(PyObject* name, PyObject* argument = nullptr);  // none when that was an error
  void say_lost(Ref protocol, Ref error);

  bool put(View bytes);
  void flush();
  void sent_some();
  void ended();          // the client sends nothing more
  void failed(int number);
  void leave();          // the client of a taken request has gone
  void finish(Ref error);  // the connection is over
  void interest();

  House& house_;
  Address peer_;
  Stage stage_ = Stage::reading;
  bool gone_ = false, slow_ = false, told_slow_ = false;
  bool closing_ = false;      // ends once what is unsent has left
  bool paused_ = false, end_wanted_ = false, end_sent_ = false, deaf_ = false;
  std::string request_;       // as far as it has come
  std::size_t looked_ = 0, head_ = 0, whole_ = 0;  // sizes; the latter two are 0 until the head has been read
  View::size_type authorization_at_ = 0, authorization_size_ = 0;
  std::string ahead_;         // what came behind it
  std::string out_;           // what has not left, from `out_at_` on
  std::size_t out_at_ = 0;
  double heard_at_, began_at_ = 0, stalled_at_ = 0;
  std::size_t place_;         // among the house's clients
  std::string name_;
  Ref protocol_, transport_;
};

}  // namespace express::net
