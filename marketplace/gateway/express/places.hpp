// A place on an engine that is well. For the one engine of a listing this is `serving.routing.router` with nothing
// odd about it, counted in Python's objects; among several Python's router chooses.
#pragma once
#include "python.hpp"

namespace express {

struct Place {
  Ref health;  // where it was taken here
  Ref choice;  // a `Choice`, where Python took it
  double started_s = 0;
};

class Places {
 public:
  bool find(PyObject* router);  // a serving.routing.Router; false with a Python error set

  // `Router.choose` of one endpoint that is known, open to everybody and without a bound; false: ask Python.
  bool take(PyObject* endpoint_id, Place& place) const;
  bool taken(const Place& place) const { return place.health || place.choice; }
  void answered(const Place& place) const;                          // `Router.answered`
  void ended(Place& place, std::int64_t output_tokens) const;       // `Router.ended`
  void abandoned(Place& place) const;                               // `Router.abandoned`
  // A `Choice` for it. Who hands it on forgets the place then: one of the two ends it.
  Ref choice(const Place& place, PyObject* endpoint, PyObject* caller) const;

 private:
  void leave(const Place& place, double now_s) const;

  Ref router_, known_, choice_type_, append_, answered_, ended_, abandoned_;
  Py_ssize_t shut_until_at_ = 0, used_at_ = 0, rates_at_ = 0, first_tokens_at_ = 0;
  NumberSlot in_flight_, successes_;
};

}  // namespace express
