#include "places.hpp"

namespace express {

namespace {

constexpr Py_ssize_t kSweep = 64;  // `router._SWEEP`: with fewer engines nobody is forgotten

void tell(PyObject* method, PyObject* choice, PyObject* more = nullptr) {
  PyObject* arguments[] = {choice, more};
  const Ref done(PyObject_Vectorcall(method, arguments, more == nullptr ? 1 : 2, nullptr));
  if (!done) unraisable(method);
}

void note(PyObject* samples, PyObject* append, double now_s, double value) {
  const Ref sample(Py_BuildValue("(dd)", now_s, value));
  PyObject* arguments[] = {samples, sample.get()};
  const Ref done(sample ? PyObject_VectorcallMethod(append, arguments, 2, nullptr) : nullptr);
  if (!done) unraisable(samples);
}

}  // namespace

bool Places::find(PyObject* router) {
  const Ref health_module(PyImport_ImportModule("serving.routing.health"));
  const Ref choice_module(PyImport_ImportModule("serving.routing.choice"));
  if (!health_module || !choice_module) return false;
  const Ref health = attribute(health_module.get(), "Health");
  choice_type_ = attribute(choice_module.get(), "Choice");
  router_ = Ref::share(router);
  known_ = attribute(router, "_known");
  append_ = text("append");
  answered_ = attribute(router, "answered");
  ended_ = attribute(router, "ended");
  abandoned_ = attribute(router, "abandoned");
  return answered_ && ended_ && abandoned_ && health && choice_type_ && known_ && append_ &&
         PyDict_Check(known_.get()) && find_slot(health.get(), "shut_until_s", shut_until_at_) &&
         find_slot(health.get(), "used_s", used_at_) && find_slot(health.get(), "rates", rates_at_) &&
         find_slot(health.get(), "first_tokens", first_tokens_at_) && in_flight_.find(health.get(), "in_flight") &&
         successes_.find(health.get(), "successes");
}

bool Places::take(PyObject* endpoint_id, Place& place) const {
  // Python looks whom to forget, and says from how many on it will look again.
  std::int64_t sweep_at = 0;
  const Py_ssize_t known = PyDict_GET_SIZE(known_.get());
  if (known >= kSweep && (!read_number(router_.get(), "_sweep_at", sweep_at) || known >= sweep_at)) {
    PyErr_Clear();
    return false;
  }
  PyObject* health = PyDict_GetItemWithError(known_.get(), endpoint_id);
  std::int64_t in_flight = 0;
  if (health == nullptr) {
    PyErr_Clear();
    return false;
  }
  PyObject* shut_until = slot_at(health, shut_until_at_);
  if (shut_until == nullptr || !PyFloat_CheckExact(shut_until) || PyFloat_AS_DOUBLE(shut_until) != 0.0) return false;
  if (!in_flight_.read(health, in_flight) || !in_flight_.write(health, in_flight + 1)) {
    PyErr_Clear();
    return false;
  }
  place.health = Ref::share(health);
  place.started_s = monotonic_s();
  put_slot(health, used_at_, PyFloat_FromDouble(place.started_s));
  return true;
}

void Places::leave(const Place& place, double now_s) const {
  std::int64_t in_flight = 0;
  PyObject* health = place.health.get();
  if (!in_flight_.read(health, in_flight) || !in_flight_.write(health, in_flight - 1)) unraisable(health);
  put_slot(health, used_at_, PyFloat_FromDouble(now_s));
}

void Places::answered(const Place& place) const {
  if (place.choice) {
    tell(answered_.get(), place.choice.get());
    return;
  }
  const double now_s = monotonic_s();
  note(slot_at(place.health.get(), first_tokens_at_), append_.get(), now_s, now_s - place.started_s);
}

void Places::ended(Place& place, std::int64_t output_tokens) const {
  if (place.choice) {
    const Ref tokens = number(output_tokens);
    tell(ended_.get(), place.choice.get(), tokens.get());
    place.choice.drop();
    return;
  }
  const double now_s = monotonic_s();
  leave(place, now_s);
  std::int64_t successes = 0;
  if (successes_.read(place.health.get(), successes)) successes_.write(place.health.get(), successes + 1);
  if (PyErr_Occurred() != nullptr) unraisable(place.health.get());
  if (output_tokens > 0 && now_s > place.started_s)
    note(slot_at(place.health.get(), rates_at_), append_.get(), now_s,
         static_cast<double>(output_tokens) / (now_s - place.started_s));
  place.health.drop();
}

void Places::abandoned(Place& place) const {
  if (place.choice) {
    tell(abandoned_.get(), place.choice.get());
    place.choice.drop();
    return;
  }
  leave(place, monotonic_s());
  place.health.drop();
}

Ref Places::choice(const Place& place, PyObject* endpoint, PyObject* caller) const {
  if (place.choice) return Ref::share(place.choice.get());
  return Ref(PyObject_CallFunction(choice_type_.get(), "OOsdOO", endpoint, place.health.get(), "only", place.started_s,
                                   Py_None, caller));
}

}  // namespace express
