#include "waiting.hpp"

#include "call.hpp"

namespace express {

namespace {

struct Waiting {
  PyObject_HEAD Call* call;
  PyObject* loop;
};

PyTypeObject* waiting_type = nullptr;

Waiting* of(PyObject* object) { return reinterpret_cast<Waiting*>(object); }

PyObject* get_loop(PyObject* self, PyObject*) { return Py_NewRef(of(self)->loop); }

PyObject* done(PyObject* self, PyObject*) { return PyBool_FromLong(of(self)->call == nullptr); }

PyObject* set_result(PyObject* self, PyObject*) {
  Call* call = std::exchange(of(self)->call, nullptr);
  if (call != nullptr) call->charged_by_python(nullptr);
  Py_RETURN_NONE;
}

PyObject* set_exception(PyObject* self, PyObject* error) {
  Call* call = std::exchange(of(self)->call, nullptr);
  if (call != nullptr) call->charged_by_python(error);
  Py_RETURN_NONE;
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  Py_CLEAR(of(self)->loop);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"get_loop", get_loop, METH_NOARGS, nullptr},
    {"done", done, METH_NOARGS, nullptr},
    {"set_result", set_result, METH_O, nullptr},
    {"set_exception", set_exception, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_methods, methods},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
    {0, nullptr},
};

PyType_Spec spec = {"marketplace.gateway.express._core.Waiting", sizeof(Waiting), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace

bool prepare_waiting() {
  if (waiting_type == nullptr) waiting_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  return waiting_type != nullptr;
}

Ref make_waiting(Call* call, PyObject* loop) {
  Ref made(waiting_type->tp_alloc(waiting_type, 0));
  if (made) {
    of(made.get())->call = call;
    of(made.get())->loop = Py_NewRef(loop);
  }
  return made;
}

bool forget_call(PyObject* waiting) { return std::exchange(of(waiting)->call, nullptr) != nullptr; }

}  // namespace express
