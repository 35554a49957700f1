#include "transport.hpp"

#include <cstring>

namespace express::net {

namespace {

struct Transport {
  PyObject_HEAD Ground* ground;  // null once the connection is over, or somebody else's
};

PyTypeObject* type = nullptr;

Ground* ground_of(PyObject* self) { return reinterpret_cast<Transport*>(self)->ground; }

PyObject* write(PyObject* self, PyObject* data) {
  Py_buffer buffer;
  if (PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) < 0) return nullptr;
  Ground* ground = ground_of(self);
  if (ground != nullptr && buffer.len > 0) {
    ground->send({static_cast<const char*>(buffer.buf), static_cast<std::size_t>(buffer.len)});
  }
  PyBuffer_Release(&buffer);
  Py_RETURN_NONE;
}

PyObject* writelines(PyObject* self, PyObject* parts) {
  const Ref empty = Ref(PyBytes_FromStringAndSize("", 0));
  if (!empty) return nullptr;
  const Ref whole = Ref(PyObject_CallMethod(empty.get(), "join", "O", parts));
  return whole ? write(self, whole.get()) : nullptr;
}

PyObject* close(PyObject* self, PyObject*) {
  if (Ground* ground = ground_of(self)) ground->close();
  Py_RETURN_NONE;
}

PyObject* abort(PyObject* self, PyObject*) {
  if (Ground* ground = ground_of(self)) ground->abort();
  Py_RETURN_NONE;
}

PyObject* is_closing(PyObject* self, PyObject*) {
  Ground* ground = ground_of(self);
  return PyBool_FromLong(ground == nullptr || ground->ending());
}

PyObject* pause_reading(PyObject* self, PyObject*) {
  if (Ground* ground = ground_of(self)) ground->read_on(false);
  Py_RETURN_NONE;
}

PyObject* resume_reading(PyObject* self, PyObject*) {
  if (Ground* ground = ground_of(self)) ground->read_on(true);
  Py_RETURN_NONE;
}

PyObject* is_reading(PyObject* self, PyObject*) {
  Ground* ground = ground_of(self);
  return PyBool_FromLong(ground != nullptr && ground->reading());
}

PyObject* can_write_eof(PyObject*, PyObject*) { Py_RETURN_TRUE; }

PyObject* write_eof(PyObject* self, PyObject*) {
  if (Ground* ground = ground_of(self)) ground->write_end();
  Py_RETURN_NONE;
}

PyObject* get_write_buffer_size(PyObject* self, PyObject*) {
  Ground* ground = ground_of(self);
  return PyLong_FromSize_t(ground == nullptr ? 0 : ground->kept());
}

PyObject* get_write_buffer_limits(PyObject*, PyObject*) {
  return Py_BuildValue("nn", static_cast<Py_ssize_t>(kLowWater), static_cast<Py_ssize_t>(kHighWater));
}

PyObject* get_protocol(PyObject* self, PyObject*) {
  Ground* ground = ground_of(self);
  PyObject* protocol = ground == nullptr ? nullptr : ground->spoken_to();
  return Py_NewRef(protocol == nullptr ? Py_None : protocol);
}

PyObject* set_protocol(PyObject* self, PyObject* protocol) {
  if (Ground* ground = ground_of(self)) ground->speak_to(protocol);
  Py_RETURN_NONE;
}

PyObject* fileno(PyObject* self, PyObject*) {
  Ground* ground = ground_of(self);
  return PyLong_FromLong(ground == nullptr ? -1 : ground->descriptor());
}

PyObject* get_extra_info(PyObject* self, PyObject* arguments, PyObject* named) {
  static const char* keywords[] = {"name", "default", nullptr};
  const char* name;
  PyObject* otherwise = Py_None;
  if (!PyArg_ParseTupleAndKeywords(arguments, named, "s|O", const_cast<char**>(keywords), &name, &otherwise)) {
    return nullptr;
  }
  // A transport has a `fileno` itself: all that anybody does with its socket.
  if (std::strcmp(name, "socket") == 0) return Py_NewRef(self);
  const bool peer = std::strcmp(name, "peername") == 0;
  Ground* ground = ground_of(self);
  if (ground != nullptr && (peer || std::strcmp(name, "sockname") == 0)) {
    Ref address = ground->address(peer);
    if (address) return address.release();
    if (PyErr_Occurred()) return nullptr;
  }
  return Py_NewRef(otherwise);
}

void dealloc(PyObject* self) {
  PyTypeObject* made_of = Py_TYPE(self);
  made_of->tp_free(self);
  Py_DECREF(made_of);
}

PyMethodDef methods[] = {
    {"write", write, METH_O, nullptr},
    {"writelines", writelines, METH_O, nullptr},
    {"close", close, METH_NOARGS, nullptr},
    {"abort", abort, METH_NOARGS, nullptr},
    {"is_closing", is_closing, METH_NOARGS, nullptr},
    {"pause_reading", pause_reading, METH_NOARGS, nullptr},
    {"resume_reading", resume_reading, METH_NOARGS, nullptr},
    {"is_reading", is_reading, METH_NOARGS, nullptr},
    {"can_write_eof", can_write_eof, METH_NOARGS, nullptr},
    {"write_eof", write_eof, METH_NOARGS, nullptr},
    {"get_write_buffer_size", get_write_buffer_size, METH_NOARGS, nullptr},
    {"get_write_buffer_limits", get_write_buffer_limits, METH_NOARGS, nullptr},
    {"get_protocol", get_protocol, METH_NOARGS, nullptr},
    {"set_protocol", set_protocol, METH_O, nullptr},
    {"get_extra_info", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(get_extra_info)),
     METH_VARARGS | METH_KEYWORDS, nullptr},
    {"fileno", fileno, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_doc, const_cast<char*>("A client's connection, as asyncio.Transport has it.")},
    {0, nullptr},
};

// It holds no reference to anything, so no cycle of references goes through it.
PyType_Spec spec = {
    "marketplace.gateway.express._core.Transport",
    sizeof(Transport),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    slots,
};

}  // namespace

bool make_transports(PyObject* module) {
  if (type == nullptr && (type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec))) == nullptr) return false;
  return PyModule_AddObjectRef(module, "Transport", reinterpret_cast<PyObject*>(type)) == 0;
}

Ref new_transport(Ground* ground) {
  PyObject* made = type->tp_alloc(type, 0);
  if (made != nullptr) reinterpret_cast<Transport*>(made)->ground = ground;
  return Ref(made);
}

void uproot(PyObject* transport) { reinterpret_cast<Transport*>(transport)->ground = nullptr; }

}  // namespace express::net
