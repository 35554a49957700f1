// Python's side of a client's connection: a type with what `asyncio.Transport` offers.
#pragma once
#include "names.hpp"

namespace express::net {

class Ground {  // what a transport stands on
 public:
  virtual void send(View bytes) = 0;
  virtual void close() = 0;  // once what is unsent has left
  virtual void abort() = 0;
  virtual bool ending() const = 0;
  virtual void read_on(bool on) = 0;
  virtual bool reading() const = 0;
  virtual void write_end() = 0;
  virtual std::size_t kept() const = 0;  // bytes that have not left
  virtual int descriptor() const = 0;
  virtual Ref address(bool peer) const = 0;  // as the module `socket` tells it; none when it cannot be told
  virtual PyObject* spoken_to() const = 0;     // the protocol, borrowed
  virtual void speak_to(PyObject* protocol) = 0;

 protected:
  ~Ground() = default;
};

constexpr std::size_t kHighWater = 64 * 1024, kLowWater = 16 * 1024;

bool make_transports(PyObject* module);  // once; false with a Python error set
Ref new_transport(Ground* ground);     // none with a Python error set
void uproot(PyObject* transport);        // it is closing from now on, and stands on nothing

}  // namespace express::net
