// The charge writer for Python's tests, and the turns for Python's own writer.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <poll.h>

#include <new>

#include "charges.hpp"
#include "module.hpp"
#include "turns.hpp"

namespace express {

namespace {

// --- ChargeWriter: a charge is known by its number, counted from 1 ----------------------------------------------

struct WriterObject {
  PyObject_HEAD ChargeWriter* writer;
  std::size_t sent;
};

WriterObject* writer_of(PyObject* self) { return reinterpret_cast<WriterObject*>(self); }

bool read_number(PyObject* object, i64& number) {
  if (!PyLong_Check(object)) {
    PyErr_SetString(PyExc_TypeError, "a number is needed");
    return false;
  }
  number = PyLong_AsLongLong(object);
  return number != -1 || PyErr_Occurred() == nullptr;
}

bool read_text(PyObject* object, std::string& text) {
  Py_ssize_t size = 0;
  const char* bytes = PyUnicode_AsUTF8AndSize(object, &size);
  if (bytes == nullptr) return false;
  text.assign(bytes, static_cast<std::size_t>(size));
  return true;
}

// Calls `read(item)` for each item of a tuple or list; false with an error set.
template <class Read>
bool read_each(PyObject* sequence, Read read) {
  PyObject* items = PySequence_Fast(sequence, "a sequence is needed");
  if (items == nullptr) return false;
  bool good = true;
  for (Py_ssize_t n = 0; good && n < PySequence_Fast_GET_SIZE(items); ++n) {
    good = read(PySequence_Fast_GET_ITEM(items, n));
  }
  Py_DECREF(items);
  return good;
}

template <std::size_t count>
bool read_numbers(PyObject* sequence, i64 (&numbers)[count]) {
  std::size_t n = 0;
  bool good = read_each(sequence, [&](PyObject* item) { return n < count && read_number(item, numbers[n++]); });
  if (good && n == count) return true;
  if (PyErr_Occurred() == nullptr) PyErr_Format(PyExc_TypeError, "%zu numbers are needed", count);
  return false;
}

bool read_leg(PyObject* item, Charge& charge) {  // operations.Leg
  i64 parts[3];
  if (!read_numbers(item, parts)) return false;
  charge.legs.push_back({parts[0], parts[1], parts[2]});
  return true;
}

bool read_entry(PyObject* item, Charge& charge) {  // operations.Entry
  i64 parts[4];
  if (!read_numbers(item, parts)) return false;
  charge.entries.push_back({parts[0], parts[1], parts[2], parts[3]});
  return true;
}

bool read_value(PyObject* item, Charge& charge) {
  Value value;
  if (PyBytes_Check(item)) {  // a text that need not be one
    value.is_text = true;
    value.text.assign(PyBytes_AS_STRING(item), static_cast<std::size_t>(PyBytes_GET_SIZE(item)));
    charge.usage.push_back(std::move(value));
    return true;
  }
  value.is_text = PyUnicode_Check(item);
  if (value.is_text ? !read_text(item, value.text) : !read_number(item, value.number)) return false;
  charge.usage.push_back(std::move(value));
  return true;
}

PyObject* make_writer(PyTypeObject* type, PyObject* arguments, PyObject* named) {
  static const char* names[] = {"path", "lane", "clearing", "patience_s", nullptr};
  const char* path = nullptr;
  long long lane = 0, clearing = 0;
  double patience_s = 30.0;
  if (!PyArg_ParseTupleAndKeywords(arguments, named, "sLL|d", const_cast<char**>(names), &path, &lane, &clearing,
                                   &patience_s)) {
    return nullptr;
  }
  auto self = reinterpret_cast<WriterObject*>(type->tp_alloc(type, 0));
  if (self == nullptr) return nullptr;
  bool memory = true;
  std::string why;
  Py_BEGIN_ALLOW_THREADS try {
    self->writer = ChargeWriter::open(path, lane, clearing, why, patience_s).release();
  } catch (const std::bad_alloc&) {
    memory = false;
  }
  Py_END_ALLOW_THREADS if (self->writer != nullptr) return reinterpret_cast<PyObject*>(self);
  if (memory) {
    PyErr_SetString(PyExc_RuntimeError, why.c_str());
  } else {
    PyErr_NoMemory();
  }
  Py_DECREF(self);
  return nullptr;
}

void close_writer(ChargeWriter* writer) {
  Py_BEGIN_ALLOW_THREADS writer->close();
  Py_END_ALLOW_THREADS
}

void drop_writer(PyObject* self) {
  ChargeWriter* writer = writer_of(self)->writer;
  if (writer != nullptr) close_writer(writer);
  delete writer;
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* send_charge(PyObject* self, PyObject* arguments) {
  PyObject *tx, *legs, *entries, *usage, *at_us;
  if (!PyArg_ParseTuple(arguments, "OOOOO", &tx, &legs, &entries, &usage, &at_us)) return nullptr;
  try {
    auto charge = std::make_unique<Charge>();
    if (!read_text(tx, charge->tx) || !read_number(at_us, charge->at_us)) return nullptr;
    if (!read_each(legs, [&](PyObject* item) { return read_leg(item, *charge); })) return nullptr;
    if (!read_each(entries, [&](PyObject* item) { return read_entry(item, *charge); })) return nullptr;
    if (!read_each(usage, [&](PyObject* item) { return read_value(item, *charge); })) return nullptr;
    std::size_t number = ++writer_of(self)->sent;
    charge->whose = reinterpret_cast<void*>(number);
    writer_of(self)->writer->send(std::move(charge));
    return PyLong_FromSize_t(number);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

PyObject* collect_answers(PyObject* self, PyObject*) {
  static const char* const words[] = {"booked", "refused", "unsure"};
  std::vector<Answered> answered;
  try {
    writer_of(self)->writer->collect(answered);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
  PyObject* list = PyList_New(0);
  for (const auto& [charge, outcome] : answered) {
    if (list == nullptr) return nullptr;
    auto number = reinterpret_cast<std::size_t>(charge->whose);
    PyObject* pair = Py_BuildValue("(ns)", static_cast<Py_ssize_t>(number), words[static_cast<int>(outcome)]);
    if (pair == nullptr || PyList_Append(list, pair) < 0) Py_CLEAR(list);
    Py_XDECREF(pair);
  }
  return list;
}

PyObject* wait_for_answers(PyObject* self, PyObject* argument) {
  double seconds = PyFloat_AsDouble(argument);
  if (seconds == -1.0 && PyErr_Occurred() != nullptr) return nullptr;
  pollfd ready{writer_of(self)->writer->ready(), POLLIN, 0};
  int found;
  Py_BEGIN_ALLOW_THREADS found = poll(&ready, 1, static_cast<int>(seconds * 1000));
  Py_END_ALLOW_THREADS return PyBool_FromLong(found > 0);
}

PyObject* fileno_of(PyObject* self, PyObject*) { return PyLong_FromLong(writer_of(self)->writer->ready()); }

PyObject* close_from_python(PyObject* self, PyObject*) {
  close_writer(writer_of(self)->writer);
  Py_RETURN_NONE;
}

PyObject* queued_of(PyObject* self, void*) { return PyLong_FromSize_t(writer_of(self)->writer->queued()); }

PyMethodDef writer_methods[] = {
    {"send", send_charge, METH_VARARGS, "Queue a charge (tx, legs, entries, usage, at_us); returns its number."},
    {"wait", wait_for_answers, METH_O, "Wait so many seconds for an answer; returns whether there is one."},
    {"collect", collect_answers, METH_NOARGS, "Return what has been answered: (number, outcome) each."},
    {"fileno", fileno_of, METH_NOARGS, "Return the descriptor that is readable when there is an answer."},
    {"close", close_from_python, METH_NOARGS, "Book what is queued, then stop."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef writer_members[] = {
    {"queued", queued_of, nullptr, "How many charges wait for the next transaction.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot writer_slots[] = {
    {Py_tp_doc, const_cast<char*>("Books charges in batches, in a thread of its own.")},
    {Py_tp_new, reinterpret_cast<void*>(make_writer)},
    {Py_tp_dealloc, reinterpret_cast<void*>(drop_writer)},
    {Py_tp_methods, writer_methods},
    {Py_tp_getset, writer_members},
    {0, nullptr},
};

PyType_Spec writer_spec = {"marketplace.gateway.express._core.ChargeWriter", sizeof(WriterObject), 0,
                           Py_TPFLAGS_DEFAULT, writer_slots};

// --- Turn: a context manager ------------------------------------------------------------------------------------

struct TurnObject {
  PyObject_HEAD bool taken;
};

PyObject* take_turn(PyObject* self, PyObject*) {
  Py_BEGIN_ALLOW_THREADS Turns::of_process().take();
  Py_END_ALLOW_THREADS reinterpret_cast<TurnObject*>(self)->taken = true;
  return Py_NewRef(self);
}

PyObject* give_turn(PyObject* self, PyObject*) {
  auto turn = reinterpret_cast<TurnObject*>(self);
  if (!turn->taken) {
    PyErr_SetString(PyExc_RuntimeError, "this turn has not been taken");
    return nullptr;
  }
  turn->taken = false;
  Turns::of_process().give();
  Py_RETURN_NONE;
}

void drop_turn(PyObject* self) {
  if (reinterpret_cast<TurnObject*>(self)->taken) Turns::of_process().give();
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef turn_methods[] = {
    {"__enter__", take_turn, METH_NOARGS, "Wait for the turn and take it."},
    {"__exit__", give_turn, METH_VARARGS, "Give it to whoever waits longest."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot turn_slots[] = {
    {Py_tp_doc, const_cast<char*>("A writer's turn among the writers of this process; one thread at a time uses it.")},
    {Py_tp_new, reinterpret_cast<void*>(PyType_GenericNew)},
    {Py_tp_dealloc, reinterpret_cast<void*>(drop_turn)},
    {Py_tp_methods, turn_methods},
    {0, nullptr},
};

PyType_Spec turn_spec = {"marketplace.gateway.express._core.Turn", sizeof(TurnObject), 0, Py_TPFLAGS_DEFAULT,
                         turn_slots};

int add_type(PyObject* module, PyType_Spec& spec, const char* name) {
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) return -1;
  int added = PyModule_AddObjectRef(module, name, type);
  Py_DECREF(type);
  return added;
}

}  // namespace

int add_charges(PyObject* module) {
  if (add_type(module, writer_spec, "ChargeWriter") < 0) return -1;
  return add_type(module, turn_spec, "Turn");
}

}  // namespace express
