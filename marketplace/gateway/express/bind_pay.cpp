// Terms, plans and bills for Python's tests: what pay.hpp offers, and nothing else.
#include "python.hpp"

#include <string>

#include "module.hpp"
#include "pay.hpp"

namespace express {

namespace {

static_assert(sizeof(i64) == sizeof(long long), "what \"L\" reads and builds");

struct BoundTerms {
  PyObject_HEAD Terms* terms;
  Plan* plan;  // of the last `draw`; reused, as the lane does it
  Bill* bill;  // of the last `settle`
  bool settled;
};

BoundTerms& bound(PyObject* self) { return *reinterpret_cast<BoundTerms*>(self); }

template <class Items, class Make>
Ref list_of(const Items& items, Make make) {
  Ref list(PyList_New(0));
  for (const auto& item : items) {
    if (!list) return list;
    const Ref made(make(item));
    if (!made || PyList_Append(list.get(), made.get()) < 0) return Ref();
  }
  return list;
}

PyObject* leg(const Leg& l) { return Py_BuildValue("(LLL)", l.account, l.amount, l.sink); }

PyObject* entry(const Entry& e) { return Py_BuildValue("(LLLL)", e.code, e.debit, e.credit, e.amount); }

PyObject* drawn(const Plan::Draw& d) {
  return Py_BuildValue("(LiLLiLiLi)", d.account, d.unit, d.amount, d.covered, d.kind, d.ratio_bp, d.base, d.cap_bp,
                       d.chain);
}

PyObject* skipped(const std::pair<int, int>& s) { return Py_BuildValue("(ii)", s.first, s.second); }

PyObject* column(const Value& value) {
  if (!value.is_text) return PyLong_FromLongLong(value.number);
  return PyUnicode_FromStringAndSize(value.text.data(), static_cast<Py_ssize_t>(value.text.size()));
}

PyObject* create(PyTypeObject* type, PyObject* arguments, PyObject*) {
  PyObject *terms = nullptr, *books = nullptr;
  if (!PyArg_ParseTuple(arguments, "OO", &terms, &books)) return nullptr;
  std::unique_ptr<Terms> made = Terms::of(terms, books);
  if (!made) {
    if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_ValueError, "The lane must not serve these terms.");
    return nullptr;
  }
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  bound(self).terms = made.release();
  bound(self).plan = new Plan;
  bound(self).bill = new Bill;
  return self;
}

void destroy(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete bound(self).terms;
  delete bound(self).plan;
  delete bound(self).bill;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* accounts(PyObject* self, PyObject*) {
  return list_of(accounts_of(*bound(self).terms), [](i64 account) { return PyLong_FromLongLong(account); }).release();
}

PyObject* make_plan(PyObject* self, PyObject* arguments) {
  i64 input_tokens = 0, output_tokens = 0, began_us = 0;
  unsigned long long open = 0;
  if (!PyArg_ParseTuple(arguments, "LLLK", &input_tokens, &output_tokens, &began_us, &open)) return nullptr;
  Plan& plan = *bound(self).plan;
  draw(*bound(self).terms, input_tokens, output_tokens, began_us, open, plan);
  const Ref draws = list_of(plan.draws, drawn), left_out = list_of(plan.skipped, skipped);
  const Ref legs = list_of(plan.legs, leg);
  if (!draws || !left_out || !legs) return nullptr;
  return Py_BuildValue("{sLsLsLsLsLsOsOsO}", "cost_u", plan.cost, "tokens", plan.tokens, "self_u", plan.self, "slack_u",
                       plan.slack, "shortfall_u", plan.shortfall, "draws", draws.get(), "skipped", left_out.get(),
                       "legs", legs.get());
}

PyObject* saw_all_of_it(PyObject* self, PyObject* arguments) {
  unsigned long long open = 0;
  PyObject* empty = nullptr;
  i64 began_us = 0;
  if (!PyArg_ParseTuple(arguments, "KO!L", &open, &PyList_Type, &empty, &began_us)) return nullptr;
  if (static_cast<std::size_t>(PyList_GET_SIZE(empty)) != accounts_of(*bound(self).terms).size()) {
    PyErr_SetString(PyExc_ValueError, "One instant for each account.");
    return nullptr;
  }
  std::vector<i64> until;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(empty); ++i) {
    until.push_back(PyLong_AsLongLong(PyList_GET_ITEM(empty, i)));
    if (PyErr_Occurred() != nullptr) return nullptr;
  }
  return PyBool_FromLong(saw_all(*bound(self).terms, *bound(self).plan, open, until.data(), began_us));
}

PyObject* make_bill(PyObject* self, PyObject* arguments) {
  Used used;
  i64 input_tokens = 0, max_tokens = 0, began_us = 0;
  if (!PyArg_ParseTuple(arguments, "(LLLLL)LLL", &used.input_uncached, &used.cache_read, &used.cache_write,
                        &used.output, &used.reasoning, &input_tokens, &max_tokens, &began_us)) {
    return nullptr;
  }
  Bill& bill = *bound(self).bill;
  if (!settle(*bound(self).terms, *bound(self).plan, used, input_tokens, max_tokens, began_us, bill)) {
    Py_RETURN_NONE;
  }
  bound(self).settled = true;
  const Ref legs = list_of(bill.legs, leg), entries = list_of(bill.entries, entry);
  if (!legs || !entries) return nullptr;
  return Py_BuildValue("{sLsLsLsLsLsLsLsOsOs(LLLLL)}", "cost_u", bill.cost, "free_u", bill.free, "voucher_u",
                       bill.voucher, "wallet_u", bill.wallet, "counted_u", bill.counted, "rounding_u", bill.rounding,
                       "overrun_u", bill.overrun, "legs", legs.get(), "entries", entries.get(), "used",
                       bill.used.input_uncached, bill.used.cache_read, bill.used.cache_write, bill.used.output,
                       bill.used.reasoning);
}

bool has_settled(PyObject* self) {
  if (!bound(self).settled) PyErr_SetString(PyExc_RuntimeError, "Nothing has been settled.");
  return bound(self).settled;
}

PyObject* make_row(PyObject* self, PyObject* arguments, PyObject* named) {
  static const char* names[] = {"id",       "raw_usage",      "request_sha256", "source",   "outcome", "why",
                                "began_us", "first_token_us", "ended_us",       "streamed", nullptr};
  const char *id = nullptr, *raw = nullptr, *sha256 = nullptr, *source = nullptr, *outcome = nullptr, *why = nullptr;
  Py_ssize_t id_size = 0, raw_size = 0, sha256_size = 0, source_size = 0, outcome_size = 0, why_size = 0;
  Told told{};
  int streamed = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, named, "$s#s#s#s#s#s#LLLp", const_cast<char**>(names), &id, &id_size,
                                   &raw, &raw_size, &sha256, &sha256_size, &source, &source_size, &outcome,
                                   &outcome_size, &why, &why_size, &told.began_us, &told.first_token_us, &told.ended_us,
                                   &streamed)) {
    return nullptr;
  }
  if (!has_settled(self)) return nullptr;
  const auto view = [](const char* text, Py_ssize_t size) { return View(text, static_cast<std::size_t>(size)); };
  told.id = view(id, id_size);
  told.raw_usage = view(raw, raw_size);
  told.request_sha256 = view(sha256, sha256_size);
  told.source = view(source, source_size);
  told.outcome = view(outcome, outcome_size);
  told.why = view(why, why_size);
  told.streamed = streamed != 0;
  return list_of(usage_row(*bound(self).terms, *bound(self).bill, told), column).release();
}

PyObject* cost_headers(PyObject* self, PyObject*) {
  if (!has_settled(self)) return nullptr;
  std::string out;
  append_cost_headers(*bound(self).bill, out);
  return PyBytes_FromStringAndSize(out.data(), static_cast<Py_ssize_t>(out.size()));
}

PyMethodDef methods[] = {
    {"accounts", accounts, METH_NOARGS, nullptr},
    {"draw", make_plan, METH_VARARGS, nullptr},
    {"saw_all", saw_all_of_it, METH_VARARGS, nullptr},
    {"settle", make_bill, METH_VARARGS, nullptr},
    {"usage_row", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(make_row)), METH_VARARGS | METH_KEYWORDS,
     nullptr},
    {"cost_headers", cost_headers, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(create)},
    {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec spec = {"marketplace.gateway.express._core.Terms", sizeof(BoundTerms), 0, Py_TPFLAGS_DEFAULT, slots};

}  // namespace

int add_pay(PyObject* module) {
  const Ref type(PyType_FromSpec(&spec));
  return type ? PyModule_AddObjectRef(module, "Terms", type.get()) : -1;
}

}  // namespace express
