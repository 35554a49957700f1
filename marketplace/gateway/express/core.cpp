// Core: the wire and its lane as Python has them.
//
// The lane and its terms hold Python's objects, which may hold the core: such cycles are broken by `close`, and
// not by the garbage collector, who cannot see into the lane.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <cmath>
#include <memory>

#include "echo_lane.hpp"
#include "http.hpp"
#include "lane.hpp"
#include "module.hpp"
#include "names.hpp"
#include "transport.hpp"
#include "wire.hpp"

namespace express {

namespace {

struct Parts {
  std::unique_ptr<Express> lane;
  std::unique_ptr<Wire> wire;
};

struct Core {
  PyObject_HEAD Parts* parts;  // null when it has been closed
  int busy;      // calls that are running in it
};

Core* core_of(PyObject* self) { return reinterpret_cast<Core*>(self); }

// The core while a call runs in it; none, with a Python error set, when it has been closed.
class Busy {
 public:
  explicit Busy(PyObject* self) : core_(core_of(self)) {
    ++core_->busy;
    if (core_->parts == nullptr) PyErr_SetString(PyExc_ValueError, "The core has been closed.");
  }
  ~Busy() { --core_->busy; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  explicit operator bool() const { return core_->parts != nullptr; }
  Wire& wire() const { return *core_->parts->wire; }
  Express& lane() const { return *core_->parts->lane; }

 private:
  Core* core_;
};

bool sensible(double seconds) { return std::isfinite(seconds) && seconds > 0; }

PyObject* make(PyTypeObject* type, PyObject* arguments, PyObject* named) {
  static const char* keywords[] = {"hooks",  "listener", "body_limit", "connect_s", "silence_s", "half_s",
                                   "idle_s", "stall_s",  "kept_s",     "echo",      nullptr};
  PyObject* hooks;
  Wire::Settings settings;
  Py_ssize_t body_limit = -1;
  settings.connect_s = settings.silence_s = -1;
  int echo = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, named, "O|$inddddddp", const_cast<char**>(keywords), &hooks,
                                   &settings.listener, &body_limit, &settings.connect_s, &settings.silence_s,
                                   &settings.half_s, &settings.idle_s, &settings.stall_s, &settings.kept_s, &echo)) {
    return nullptr;
  }
  for (double seconds :
       {settings.connect_s, settings.silence_s, settings.half_s, settings.idle_s, settings.stall_s, settings.kept_s}) {
    if (sensible(seconds) && body_limit >= 0) continue;
    PyErr_SetString(PyExc_ValueError, "A core needs body_limit, connect_s and silence_s, and no duration below zero.");
    return nullptr;
  }
  settings.body_limit = static_cast<std::size_t>(body_limit);
  auto parts = std::make_unique<Parts>();
  parts->lane = echo ? make_echo() : Express::make(hooks);
  if (parts->lane == nullptr) return nullptr;
  parts->wire = Wire::make(settings, hooks, parts->lane.get());
  if (parts->wire == nullptr) return nullptr;
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  parts->lane->wired(*parts->wire);
  core_of(self)->parts = parts.release();
  return self;
}

// The lane first: what it still does, it does to a wire that is there. The wire calls no lane at its end.
void end(Core* core) {
  std::unique_ptr<Parts> parts(std::exchange(core->parts, nullptr));
  if (parts == nullptr) return;
  parts->lane.reset();
  parts->wire.reset();
}

PyObject* close(PyObject* self, PyObject*) {
  if (core_of(self)->busy > 0) {
    PyErr_SetString(PyExc_RuntimeError, "A core cannot be closed by whom it calls.");
    return nullptr;
  }
  end(core_of(self));
  Py_RETURN_NONE;
}

void dealloc(PyObject* self) {
  // Python is called at the end, and there may be an error on its way.
  PyObject *error, *value, *trace;
  PyErr_Fetch(&error, &value, &trace);
  end(core_of(self));
  PyErr_Restore(error, value, trace);
  PyTypeObject* made_of = Py_TYPE(self);
  made_of->tp_free(self);
  Py_DECREF(made_of);
}

PyObject* fileno(PyObject* self, PyObject*) {
  const Busy core(self);
  return core ? PyLong_FromLong(core.wire().fileno()) : nullptr;
}

PyObject* poll(PyObject* self, PyObject*) {
  const Busy core(self);
  if (!core || !core.wire().poll()) return nullptr;
  Py_RETURN_NONE;
}

PyObject* look_around(PyObject* self, PyObject*) {
  const Busy core(self);
  if (!core) return nullptr;
  core.wire().look_around();
  Py_RETURN_NONE;
}

PyObject* adopt(PyObject* self, PyObject* arguments) {
  int fd;
  Py_buffer read;
  if (!PyArg_ParseTuple(arguments, "iy*", &fd, &read)) return nullptr;
  const Busy core(self);
  if (core) core.wire().adopt(fd, {static_cast<const char*>(read.buf), static_cast<std::size_t>(read.len)});
  PyBuffer_Release(&read);
  if (!core) return nullptr;
  Py_RETURN_NONE;
}

PyObject* stop_listening(PyObject* self, PyObject*) {
  const Busy core(self);
  if (!core) return nullptr;
  core.wire().stop_listening();
  Py_RETURN_NONE;
}

PyObject* close_idle(PyObject* self, PyObject*) {
  const Busy core(self);
  if (!core) return nullptr;
  core.wire().close_idle();
  Py_RETURN_NONE;
}

PyObject* connections(PyObject* self, void*) {
  const Busy core(self);
  return core ? PyLong_FromSize_t(core.wire().connections()) : nullptr;
}

PyObject* lane(PyObject* self, PyObject* arguments) {
  const Py_ssize_t count = PyTuple_Size(arguments);
  const char* what = count > 0 ? PyUnicode_AsUTF8(PyTuple_GetItem(arguments, 0)) : nullptr;
  if (what == nullptr) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "What is the lane asked?");
    return nullptr;
  }
  const Busy core(self);
  if (!core) return nullptr;
  const Ref rest = Ref(PyTuple_GetSlice(arguments, 1, count));
  return rest ? core.lane().asked(what, rest.get()) : nullptr;
}

PyMethodDef methods[] = {
    {"fileno", fileno, METH_NOARGS, nullptr},
    {"poll", poll, METH_NOARGS, nullptr},
    {"look_around", look_around, METH_NOARGS, nullptr},
    {"adopt", adopt, METH_VARARGS, nullptr},
    {"stop_listening", stop_listening, METH_NOARGS, nullptr},
    {"close_idle", close_idle, METH_NOARGS, nullptr},
    {"lane", lane, METH_VARARGS, nullptr},
    {"close", close, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef properties[] = {
    {"connections", connections, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(make)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, const_cast<char*>("All sockets of one worker, and the lane.")},
    {0, nullptr},
};

PyType_Spec spec = {"marketplace.gateway.express._core.Core", sizeof(Core), 0, Py_TPFLAGS_DEFAULT, slots};

// For the tests: what the wire makes of a head, None when it is not plain.
PyObject* plain_head(PyObject*, PyObject* argument) {
  Py_buffer buffer;
  if (PyObject_GetBuffer(argument, &buffer, PyBUF_SIMPLE) < 0) return nullptr;
  const View bytes(static_cast<const char*>(buffer.buf), static_cast<std::size_t>(buffer.len));
  PyObject* told = nullptr;
  net::PlainHead plain;
  const std::size_t size = bytes.empty() ? 0 : net::size_of_head(bytes, 0);
  if (size > 0 && net::begins_plainly(bytes) == net::Plain::yes && net::read_plain(bytes.substr(0, size), plain)) {
    told = Py_BuildValue("nKy#", static_cast<Py_ssize_t>(size), static_cast<unsigned long long>(plain.length),
                         plain.authorization.data() ? plain.authorization.data() : "",
                         static_cast<Py_ssize_t>(plain.authorization.size()));
  } else {
    told = Py_NewRef(Py_None);
  }
  PyBuffer_Release(&buffer);
  return told;
}

// For the tests: what comes of an answer that arrives in these pieces, behind which the engine closes.
// -> (pieces pushed, status, headers, body, kept) or (pieces pushed, whether anything came)
PyObject* read_answer(PyObject*, PyObject* arguments) {
  PyObject* pieces;
  int push;
  if (!PyArg_ParseTuple(arguments, "O!p", &PyList_Type, &pieces, &push)) return nullptr;
  const Ref pushed = Ref(PyList_New(0)), headers = Ref(PyDict_New());
  if (!pushed || !headers) return nullptr;
  net::AnswerReader reader;
  using State = net::AnswerReader::State;
  State state = State::more;
  reader.begin(push != 0);
  bool kept = true;
  for (Py_ssize_t i = 0; i < PyList_Size(pieces) && state == State::more; ++i) {
    char* bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(PyList_GetItem(pieces, i), &bytes, &size) < 0) return nullptr;
    std::string copy(bytes, static_cast<std::size_t>(size));
    state = reader.feed(copy.data(), copy.size());
    if (state == State::broken || reader.piece().empty()) continue;
    const Ref piece = express::bytes(reader.piece());
    if (!piece || PyList_Append(pushed.get(), piece.get()) < 0) return nullptr;
  }
  if (state == State::more) {
    kept = false;
    state = reader.end();
  }
  if (state == State::broken) return Py_BuildValue("OO", pushed.get(), reader.reached() ? Py_True : Py_False);
  for (const auto& [name, value] : reader.answer.headers) {
    const Ref key = bytes(name), told = bytes(value);
    if (!key || !told || PyDict_SetItem(headers.get(), key.get(), told.get()) < 0) return nullptr;
  }
  kept = kept && reader.keeps() && reader.rest() == 0;
  return Py_BuildValue("OiOy#O", pushed.get(), reader.answer.status, headers.get(), reader.answer.body.data(),
                       static_cast<Py_ssize_t>(reader.answer.body.size()), kept ? Py_True : Py_False);
}

PyMethodDef functions[] = {
    {"plain_head", plain_head, METH_O, nullptr},
    {"read_answer", read_answer, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

int add_core(PyObject* module) {
  if (!net::make_names() || !net::make_transports(module)) return -1;
  const Ref type = Ref(PyType_FromSpec(&spec));
  if (!type || PyModule_AddObjectRef(module, "Core", type.get()) < 0) return -1;
  return PyModule_AddFunctions(module, functions);
}

}  // namespace express
