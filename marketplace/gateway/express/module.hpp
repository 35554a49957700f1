// What each part adds to the module: 0, or -1 with a Python error set.
#pragma once

struct _object;
typedef _object PyObject;

namespace express {

int add_text(PyObject* module);     // bind_text.cpp: digests, ids, requests, usage, streams (for the tests)
int add_pay(PyObject* module);      // bind_pay.cpp: terms, plans, bills (for the tests)
int add_charges(PyObject* module);  // bind_charges.cpp: the charge writer (for the tests)
int add_core(PyObject* module);     // core.cpp: Core

}  // namespace express
