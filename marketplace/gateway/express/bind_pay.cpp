#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "module.hpp"

namespace express {

int add_pay(PyObject*) { return 0; }

}  // namespace express
