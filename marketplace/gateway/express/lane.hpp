// The express lane: a busy account's plain chat call, from its bytes to its bill, without Python in between.
#pragma once
#include <memory>

#include "wire.hpp"

struct PyMethodDef;

namespace express {

class Express : public Lane {
 public:
  virtual void wired(Wire& wire) = 0;  // called once, before anything else
  // Python's questions to the lane (`Core.lane(what, *arguments)`); a new reference, null with an error set.
  virtual PyObject* asked(const char* what, PyObject* arguments) = 0;
  static std::unique_ptr<Express> make(PyObject* hooks);  // null with a Python error set
};

}  // namespace express
