// What the wire needs of the Python C API: owned references, names that are asked for often, errors of others.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <utility>

#include "text.hpp"

namespace express::net {

class Owned {  // a reference of its own; null for none
 public:
  Owned() = default;
  static Owned steal(PyObject* object) { return Owned(object); }
  static Owned borrow(PyObject* object) { return Owned(Py_XNewRef(object)); }
  Owned(const Owned& other) : object_(Py_XNewRef(other.object_)) {}
  Owned(Owned&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Owned& operator=(Owned other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Owned() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  explicit Owned(PyObject* object) : object_(object) {}
  PyObject* object_ = nullptr;
};

struct Names {
  PyObject *connection, *idle, *resumed, *data_received, *eof_received, *connection_lost, *pause_writing,
      *resume_writing;
};
extern Names names;

bool make_names();  // once, when the module is made; false with a Python error set

inline Owned bytes_of(View bytes) {
  return Owned::steal(PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

// The OSError of a system call that failed.
inline Owned os_error(int number) {
  errno = number;
  PyErr_SetFromErrno(PyExc_OSError);
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
  return Owned::steal(value);
}

}  // namespace express::net
