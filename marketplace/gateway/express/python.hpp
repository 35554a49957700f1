// A little order around the interpreter's references. All of it with the interpreter's lock held.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <utility>

#include "text.hpp"

namespace express {

// One reference, given back when it goes out of scope.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* taken) : object_(taken) {}  // takes over a new reference; null is nothing
  static Ref share(PyObject* borrowed) {
    Py_XINCREF(borrowed);
    return Ref(borrowed);
  }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    if (this != &other) {
      PyObject* old = std::exchange(object_, std::exchange(other.object_, nullptr));
      Py_XDECREF(old);
    }
    return *this;
  }
  Ref(const Ref& other) : object_(Py_XNewRef(other.object_)) {}
  Ref& operator=(const Ref& other) { return *this = share(other.object_); }
  ~Ref() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  void drop() { Py_CLEAR(object_); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

inline Ref number(std::int64_t value) { return Ref(PyLong_FromLongLong(value)); }
inline Ref bytes(View text) {
  return Ref(PyBytes_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}
inline Ref text(View text) {
  return Ref(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}
inline Ref attribute(PyObject* object, const char* name) { return Ref(PyObject_GetAttrString(object, name)); }

// An attribute that is an integer, or `otherwise` where it is None. False with a Python error set.
bool read_number(PyObject* object, const char* name, std::int64_t& value, std::int64_t otherwise = 0);
// An attribute that is a str (as UTF-8) or bytes.
bool read_text(PyObject* object, const char* name, std::string& value);

// Tells the interpreter of an error that nobody can be told of, and clears it.
inline void unraisable(PyObject* where) { PyErr_WriteUnraisable(where); }

// Where a slot (`__slots__`) of a Python class lies in its objects; false with a Python error set.
bool find_slot(PyObject* type, const char* name, Py_ssize_t& offset);

inline PyObject** slot_of(PyObject* object, Py_ssize_t offset) {
  return reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
}
inline PyObject* slot_at(PyObject* object, Py_ssize_t offset) { return *slot_of(object, offset); }  // borrowed, or null
// Puts a new reference into a slot; null (with an error set) leaves it and tells the interpreter.
inline void put_slot(PyObject* object, Py_ssize_t offset, PyObject* fresh) {
  if (fresh == nullptr) {
    unraisable(object);
    return;
  }
  PyObject* old = std::exchange(*slot_of(object, offset), fresh);
  Py_XDECREF(old);
}

// A slot that holds an integer, read and written where it lies.
class NumberSlot {
 public:
  bool find(PyObject* type, const char* name);  // false with a Python error set
  // False (with a Python error set) where the slot holds no integer of 64 bits.
  bool read(PyObject* object, std::int64_t& value) const;
  bool write(PyObject* object, std::int64_t value) const;

 private:
  Py_ssize_t offset_ = 0;
};

}  // namespace express
