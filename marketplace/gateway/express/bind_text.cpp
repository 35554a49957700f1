// Digests, ids, requests, usage and streams, as Python's tests see them.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <new>
#include <string>

#include "json.hpp"
#include "module.hpp"
#include "request.hpp"
#include "stream.hpp"
#include "text.hpp"

namespace express {

namespace {

PyObject* as_bytes(View text) { return PyBytes_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())); }

// Memory is all that can run out in here.
template <class Work>
PyObject* guarded(Work&& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

View view(const char* bytes, Py_ssize_t size) { return View(bytes, static_cast<std::size_t>(size)); }

PyObject* py_sha256(PyObject*, PyObject* arguments, PyObject* named) {
  static const char* names[] = {"data", "portable", nullptr};
  const char* data;
  Py_ssize_t size;
  int portable = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, named, "y#|p:sha256", const_cast<char**>(names), &data, &size,
                                   &portable)) {
    return nullptr;
  }
  Sha256 hash(portable != 0);
  // In three parts, so that what lies between two blocks is seen.
  const View all = view(data, size);
  const std::size_t first = all.size() / 3, second = all.size() / 2;
  hash.update(all.substr(0, first));
  hash.update(all.substr(first, second - first));
  hash.update(all.substr(second));
  const Digest digest = hash.digest();
  return as_bytes(View(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

PyObject* py_hex_sha256(PyObject*, PyObject* argument) {
  char* data;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(argument, &data, &size) < 0) return nullptr;
  return guarded([&] {
    std::string out;
    append_hex(out, sha256(view(data, size)));
    return PyUnicode_FromStringAndSize(out.data(), static_cast<Py_ssize_t>(out.size()));
  });
}

PyObject* py_number(PyObject*, PyObject* argument) {
  const long long value = PyLong_AsLongLong(argument);
  if (value == -1 && PyErr_Occurred() != nullptr) return nullptr;
  return guarded([&] {
    std::string out;
    append_number(out, value);
    return as_bytes(out);
  });
}

PyObject* py_clocks(PyObject*, PyObject*) {
  return Py_BuildValue("Ld", static_cast<long long>(now_us()), monotonic_s());
}

PyObject* py_new_id(PyObject*, PyObject* argument) {
  Py_ssize_t size;
  const char* prefix = PyUnicode_AsUTF8AndSize(argument, &size);
  if (prefix == nullptr) return nullptr;
  return guarded([&] {
    const std::string id = new_id(view(prefix, size));
    return PyUnicode_FromStringAndSize(id.data(), static_cast<Py_ssize_t>(id.size()));
  });
}

PyObject* py_json_string(PyObject*, PyObject* argument) {
  Py_ssize_t size;
  const char* text = PyUnicode_AsUTF8AndSize(argument, &size);
  if (text == nullptr) return nullptr;
  return guarded([&] {
    std::string out;
    append_json(out, view(text, size));
    return as_bytes(out);
  });
}

PyObject* py_is_utf8(PyObject*, PyObject* arguments, PyObject* named) {
  static const char* names[] = {"data", "portable", nullptr};
  const char* data;
  Py_ssize_t size;
  int portable = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, named, "y#|p:is_utf8", const_cast<char**>(names), &data, &size,
                                   &portable)) {
    return nullptr;
  }
  return PyBool_FromLong(portable != 0 ? is_utf8_portable(view(data, size)) : is_utf8(view(data, size)));
}

PyObject* py_read_request(PyObject*, PyObject* argument) {
  char* data;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(argument, &data, &size) < 0) return nullptr;
  return guarded([&]() -> PyObject* {
    Asked asked;
    if (!read_request(view(data, size), asked)) Py_RETURN_NONE;
    PyObject* fields = PyList_New(0);
    if (fields == nullptr) return nullptr;
    for (const Field& field : asked.fields) {
      PyObject* pair = Py_BuildValue("y#y#", field.name.data(), static_cast<Py_ssize_t>(field.name.size()),
                                     field.value.data(), static_cast<Py_ssize_t>(field.value.size()));
      const bool added = pair != nullptr && PyList_Append(fields, pair) == 0;
      Py_XDECREF(pair);
      if (!added) {
        Py_DECREF(fields);
        return nullptr;
      }
    }
    return Py_BuildValue("{s:N,s:s#,s:O,s:O,s:L}", "fields", fields, "model", asked.model.data(),
                         static_cast<Py_ssize_t>(asked.model.size()), "stream", asked.stream ? Py_True : Py_False,
                         "include_usage", asked.include_usage ? Py_True : Py_False, "max_tokens",
                         static_cast<long long>(asked.max_tokens));
  });
}

PyObject* py_write_request(PyObject*, PyObject* arguments) {
  const char *body, *model;
  Py_ssize_t body_size, model_size;
  long long max_tokens;
  if (!PyArg_ParseTuple(arguments, "y#y#L:write_request", &body, &body_size, &model, &model_size, &max_tokens)) {
    return nullptr;
  }
  return guarded([&]() -> PyObject* {
    Asked asked;
    if (!read_request(view(body, body_size), asked)) Py_RETURN_NONE;
    std::string out;
    write_request(asked, view(model, model_size), max_tokens, out);
    return as_bytes(out);
  });
}

PyObject* py_read_usage(PyObject*, PyObject* argument) {
  char* data;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(argument, &data, &size) < 0) return nullptr;
  return guarded([&]() -> PyObject* {
    Used used;
    View raw;
    if (!read_usage(view(data, size), used, raw)) Py_RETURN_NONE;
    return Py_BuildValue("(LLLLL)y#", static_cast<long long>(used.input_uncached),
                         static_cast<long long>(used.cache_read), static_cast<long long>(used.cache_write),
                         static_cast<long long>(used.output), static_cast<long long>(used.reasoning), raw.data(),
                         static_cast<Py_ssize_t>(raw.size()));
  });
}

struct PyStreamReader {
  PyObject_HEAD StreamReader reader;
  std::string forwarded;
};

PyStreamReader* self_of(PyObject* self) { return reinterpret_cast<PyStreamReader*>(self); }

PyObject* reader_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
  if (!PyArg_ParseTuple(arguments, ":StreamReader")) return nullptr;
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  new (&self_of(self)->reader) StreamReader();
  new (&self_of(self)->forwarded) std::string();
  return self;
}

void reader_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  self_of(self)->reader.~StreamReader();
  using std::string;
  self_of(self)->forwarded.~string();
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* reader_feed(PyObject* self, PyObject* argument) {
  char* data;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(argument, &data, &size) < 0) return nullptr;
  return guarded([&]() -> PyObject* {
    PyStreamReader* mine = self_of(self);
    mine->forwarded.clear();
    if (!mine->reader.feed(view(data, size), mine->forwarded)) Py_RETURN_NONE;
    return as_bytes(mine->forwarded);
  });
}

PyObject* reader_tail(PyObject* self, PyObject*) {
  return guarded([&] { return as_bytes(self_of(self)->reader.tail()); });
}

PyObject* or_none(const std::string& text) {
  if (text.empty()) Py_RETURN_NONE;
  return as_bytes(text);
}

PyObject* reader_done(PyObject* self, void*) { return PyBool_FromLong(self_of(self)->reader.done()); }
PyObject* reader_usage(PyObject* self, void*) { return or_none(self_of(self)->reader.usage()); }
PyObject* reader_usage_chunk(PyObject* self, void*) { return or_none(self_of(self)->reader.usage_chunk()); }
PyObject* reader_forwarded(PyObject* self, void*) { return as_bytes(self_of(self)->forwarded); }

PyMethodDef reader_methods[] = {
    {"feed", reader_feed, METH_O, "Return what may be forwarded now; None where the stream has failed."},
    {"tail", reader_tail, METH_NOARGS, "Return what Python's reader has to be fed to stand here."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef reader_properties[] = {
    {"done", reader_done, nullptr, nullptr, nullptr},
    {"usage", reader_usage, nullptr, nullptr, nullptr},
    {"usage_chunk", reader_usage_chunk, nullptr, nullptr, nullptr},
    {"forwarded", reader_forwarded, nullptr, "What the last piece added, also where it failed.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot reader_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(reader_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(reader_dealloc)},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_properties},
    {0, nullptr},
};

PyType_Spec reader_spec = {
    "marketplace.gateway.express._core.StreamReader", sizeof(PyStreamReader), 0, Py_TPFLAGS_DEFAULT, reader_slots,
};

PyCFunction with_names(PyCFunctionWithKeywords function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef functions[] = {
    {"sha256", with_names(py_sha256), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"hex_sha256", py_hex_sha256, METH_O, nullptr},
    {"number", py_number, METH_O, nullptr},
    {"clocks", py_clocks, METH_NOARGS, nullptr},
    {"new_id", py_new_id, METH_O, nullptr},
    {"json_string", py_json_string, METH_O, nullptr},
    {"is_utf8", with_names(py_is_utf8), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"read_request", py_read_request, METH_O, nullptr},
    {"write_request", py_write_request, METH_VARARGS, nullptr},
    {"read_usage", py_read_usage, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

int add_text(PyObject* module) {
  if (PyModule_AddFunctions(module, functions) < 0) return -1;
  PyObject* type = PyType_FromSpec(&reader_spec);
  if (type == nullptr) return -1;
  const int added = PyModule_AddObjectRef(module, "StreamReader", type);
  Py_DECREF(type);
  return added;
}

}  // namespace express
