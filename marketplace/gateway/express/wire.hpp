// Sockets: clients at the door, engines behind it, and Python's side of a client's connection.
//
// One thread, that of the event loop, with the interpreter's lock held throughout. An epoll of its own holds
// every socket; the event loop watches that epoll's descriptor and calls `Wire::poll`.
//
//   client ─► whole plain request ─► Lane::takes ─┬─ true ──► the lane answers (`Client::write`, `done`)
//                                                 └─ false ─► Python's `door.Connection` gets the bytes, on a
//                                                             transport (transport.hpp) over the same socket
//
// A request that Python has begun is Python's to the end; the next one on the same connection is looked at anew.
#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text.hpp"

struct _object;
typedef _object PyObject;

namespace express {

class Wire;

// The head of a whole plain request: POST /v1/chat/completions over HTTP/1.1, of ordinary headers, with a
// content-length, whose connection stays open. What else there may be never reaches the lane.
struct Head {
  View authorization;  // the header's value, '' when there is none
};

class Client {
 public:
  virtual ~Client() = default;
  virtual bool gone() const = 0;              // has left, or is being closed
  virtual void write(View bytes) = 0;         // sends now what can be sent, keeps the rest
  virtual std::size_t unsent() const = 0;     // bytes kept
  virtual View peer() = 0;                    // its address as `door.Request.client` names it; '' when not known
  virtual void done() = 0;                    // the taken request is answered; `this` may be reused at once
  virtual bool closing() const = 0;           // this answer is the last: it has to say `connection: close`
  // Gives the taken request to Python after all: `hooks.connection(transport)` is called unless there is a
  // protocol already, `protocol.resumed = resumed` is set (None: nothing to resume), then the protocol gets the
  // request's bytes, and what came behind them. The lane is not called for this request again. Where the client
  // has gone, the transport says that it is closing. False where Python does not take it: then nobody has it, and
  // the connection is over.
  virtual bool give_up(PyObject* resumed) = 0;
  virtual void break_off() = 0;               // ends the connection, in the middle of what was written
  void* call = nullptr;                       // the lane's own
};

enum class Failure { unreachable, silent, broken };

struct Answer {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case, the last one counts
  std::string body;                                           // '' where it was pushed on
};

// Who waits for an engine's answer. Exactly one of `landed` and `broke` is called, once, unless it was cut off.
// As `upstream.py` has it, an engine that cannot be reached in time is silent, and not unreachable.
class Reader {
 public:
  virtual ~Reader() = default;
  virtual void piece(View bytes) = 0;  // the body of a 200 as it arrives, where it was asked for
  virtual void landed(Answer&& answer) = 0;
  virtual void broke(Failure failure) = 0;
};

class Flight {  // one request on its way through an engine; gone once its reader has heard the end
 public:
  virtual ~Flight() = default;
  virtual bool sent() const = 0;  // whether the engine may have heard of it
  virtual void cut_off() = 0;     // closes the connection; the reader hears nothing more
  virtual void pause() = 0;       // let the engine wait
  virtual void resume() = 0;
};

class Engine {  // where an engine listens, and its kept connections: the rules of marketplace/gateway/wire.py
 public:
  virtual ~Engine() = default;
  // Sends a whole request. The reader is never called before this has returned.
  virtual Flight* send(std::string request, bool push, Reader* reader) = 0;
};

class Lane {  // who serves
 public:
  virtual ~Lane() = default;
  // A whole plain request has come. True: it is taken, the answer comes through `client`. False: it is Python's.
  virtual bool takes(Client& client, const Head& head, View body) = 0;
  // Neither is called inside a call of the lane's, nor for a request that is answered or given up.
  virtual void left(Client& client) = 0;              // it has gone, and is the lane's until `done` or `give_up`
  virtual void slow(Client& client, bool slow) = 0;   // it has stopped reading, or reads on
  virtual void tick(double now_s) = 0;                // some ten times a second
};

class Wire {
 public:
  struct Settings {
    int listener = -1;            // a listening socket, not blocking; -1 for none
    std::size_t body_limit = 0;   // longer ones are Python's to refuse
    double connect_s = 5, silence_s = 60;
    double half_s = 5;    // after which half a request is Python's
    double idle_s = 75;   // after which a connection without a request is closed (door.py, IDLE_S)
    double stall_s = 60;  // after which a client that does not read is gone (door.py, STALL_S)
    double kept_s = 60;   // after which an engine's unused connection is not trusted (wire.py, _IDLE_S)
  };
  // `hooks` is Python's side (see _core.pyi).
  static std::unique_ptr<Wire> make(const Settings& settings, PyObject* hooks, Lane* lane);
  virtual ~Wire() = default;

  virtual int fileno() const = 0;
  virtual bool poll() = 0;                        // false with a Python error set
  virtual void look_around() = 0;                 // patience: silent engines, clients that trickle or do not read
  virtual void watch(int fd, void (*ready)(void*), void* whose) = 0;  // calls `ready` when `fd` is readable
  // One for each address, kept while anybody has it or a connection to it is open.
  virtual std::shared_ptr<Engine> engine(const sockaddr_storage& address, socklen_t length) = 0;
  virtual void adopt(int fd, View read) = 0;      // serve a connection of which `read` was read elsewhere
  virtual void stop_listening() = 0;              // the listener stays its owner's to close
  // Close idle connections, the others after their answer. Those that have a protocol are `door.Door.close`'s.
  virtual void close_idle() = 0;
  virtual std::size_t connections() const = 0;
};

}  // namespace express
