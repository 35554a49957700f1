// What the wire says to Python: names that are asked for often, errors of the system.
#pragma once
#include <errno.h>

#include "python.hpp"

namespace express::net {

struct Names {
  PyObject *connection, *idle, *resumed, *data_received, *eof_received, *connection_lost, *pause_writing,
      *resume_writing;
};
extern Names names;

bool make_names();  // once, when the module is made; false with a Python error set

// The OSError of a system call that failed.
inline Ref os_error(int number) {
  errno = number;
  PyErr_SetFromErrno(PyExc_OSError);
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
  return Ref(value);
}

}  // namespace express::net
