// `marketplace.gateway.limits` without the way through the interpreter: the same meters, the same numbers.
//
// The meters are Python's objects; what is taken here and what Python takes is one account. The rules are told
// there. A call that would be refused is declined, so that Python refuses it and says why.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "python.hpp"

namespace express {

constexpr std::size_t kMostQuotas = 8;

// What one call has taken: a `Ticket`.
struct Taken {
  std::array<PyObject*, kMostQuotas> meters{};  // with a reference each
  std::array<std::int64_t, kMostQuotas> due_ps{};
  std::size_t count = 0;
  std::int64_t reserved = 0, shifted_us = 0;
};

// The quotas of a key and a listing, as `Quotas.of` made them.
struct Quota {
  Ref object, subject;
};
bool read_quotas(PyObject* tuple, std::vector<Quota>& quotas);  // false with a Python error set

class Limits {
 public:
  bool find(PyObject* limits);  // a marketplace.gateway.limits.Limits; false with a Python error set

  // `Limits.enter`: a request, `tokens` and a place of every quota. False: nothing was taken, ask Python.
  bool enter(const std::vector<Quota>& quotas, std::int64_t tokens, std::int64_t now_us, Taken& taken);
  // `Ticket.headers`, as lines.
  void append_headers(const Taken& taken, std::string& out) const;
  // `Ticket.settle` and `Ticket.leave`. `tokens_used` is what the call came to.
  void leave(Taken& taken, std::int64_t tokens_used);
  // A `Ticket` for all that was taken. Who hands it on forgets `taken` then: one of the two leaves.
  Ref ticket(const Taken& taken) const;
  static void forget(Taken& taken);

 private:
  struct Numbers;
  bool read(PyObject* meter, Numbers& numbers) const;

  Ref limits_, ticket_type_;
  NumberSlot now_ps_, origin_us_, shifted_us_;
  Py_ssize_t meters_at_ = 0, quota_at_ = 0;
  NumberSlot requests_at_ps_, tokens_at_ps_, running_, request_ps_, burst_ps_, token_ps_, most_;
};

}  // namespace express
