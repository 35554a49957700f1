#include "python.hpp"

#include <structmember.h>

namespace express {

bool read_number(PyObject* object, const char* name, std::int64_t& value, std::int64_t otherwise) {
  const Ref found = attribute(object, name);
  if (!found) return false;
  if (found.get() == Py_None) {
    value = otherwise;
    return true;
  }
  value = PyLong_AsLongLong(found.get());
  return value != -1 || PyErr_Occurred() == nullptr;
}

bool read_text(PyObject* object, const char* name, std::string& value) {
  const Ref found = attribute(object, name);
  if (!found) return false;
  Py_ssize_t size = 0;
  if (PyBytes_Check(found.get())) {
    value.assign(PyBytes_AS_STRING(found.get()), static_cast<std::size_t>(PyBytes_GET_SIZE(found.get())));
    return true;
  }
  const char* utf8 = PyUnicode_AsUTF8AndSize(found.get(), &size);
  if (utf8 == nullptr) return false;
  value.assign(utf8, static_cast<std::size_t>(size));
  return true;
}

bool find_slot(PyObject* type, const char* name, Py_ssize_t& offset) {
  const Ref descriptor = attribute(type, name);
  if (!descriptor) return false;
  if (!Py_IS_TYPE(descriptor.get(), &PyMemberDescr_Type)) {
    PyErr_Format(PyExc_TypeError, "%s is no slot", name);
    return false;
  }
  const PyMemberDef* member = reinterpret_cast<PyMemberDescrObject*>(descriptor.get())->d_member;
  if (member->type != T_OBJECT_EX) {
    PyErr_Format(PyExc_TypeError, "%s holds no object", name);
    return false;
  }
  offset = member->offset;
  return true;
}

bool NumberSlot::find(PyObject* type, const char* name) { return find_slot(type, name, offset_); }

bool NumberSlot::read(PyObject* object, std::int64_t& value) const {
  PyObject* held = slot_at(object, offset_);
  if (held == nullptr) {
    PyErr_SetString(PyExc_AttributeError, "an empty slot");
    return false;
  }
  value = PyLong_AsLongLong(held);
  return value != -1 || PyErr_Occurred() == nullptr;
}

bool NumberSlot::write(PyObject* object, std::int64_t value) const {
  PyObject* fresh = PyLong_FromLongLong(value);
  if (fresh == nullptr) return false;
  PyObject* old = std::exchange(*slot_of(object, offset_), fresh);
  Py_XDECREF(old);
  return true;
}

}  // namespace express
