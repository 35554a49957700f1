// The extension module: each part adds what Python may call of it.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <initializer_list>

#include "module.hpp"

// What the sources were, from build.py: Python does not load an extension of other sources than those beside it.
#ifndef EXPRESS_SOURCES
#define EXPRESS_SOURCES ""
#endif

static PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                 "_core",
                                 "The compiled part of the express lane.",
                                 -1,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr};

PyMODINIT_FUNC PyInit__core() {
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  if (PyModule_AddStringConstant(module, "sources", EXPRESS_SOURCES) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  for (auto add : {express::add_text, express::add_pay, express::add_charges, express::add_core}) {
    if (add(module) < 0) {
      Py_DECREF(module);
      return nullptr;
    }
  }
  return module;
}
