#include "counted.hpp"

#include "python.hpp"

namespace express {

namespace {

constexpr std::array<std::int64_t, 19> kBoundsUs = {250,      500,      1000,     2500,      5000,     10000,   25000,
                                                    50000,    100000,   250000,   500000,    1000000,  2500000, 5000000,
                                                    10000000, 30000000, 60000000, 120000000, 300000000};

bool put(PyObject* dict, const char* name, PyObject* value) {
  const Ref held(value);
  return held && PyDict_SetItemString(dict, name, held.get()) == 0;
}

}  // namespace

void Histogram::observe_us(std::int64_t us) {
  std::size_t at = 0;
  while (at < kBoundsUs.size() && kBoundsUs[at] < us) ++at;
  ++counts_[at];
  sum_s_ += static_cast<double>(us) / 1e6;
}

PyObject* Histogram::take() {
  Ref told(PyDict_New());
  Ref counts(PyList_New(static_cast<Py_ssize_t>(counts_.size())));
  if (!told || !counts) return nullptr;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    PyObject* count = PyLong_FromLongLong(counts_[i]);
    if (count == nullptr) return nullptr;
    PyList_SET_ITEM(counts.get(), static_cast<Py_ssize_t>(i), count);
  }
  if (!put(told.get(), "counts", counts.release()) || !put(told.get(), "sum_s", PyFloat_FromDouble(sum_s_)))
    return nullptr;
  counts_.fill(0);
  sum_s_ = 0;
  return told.release();
}

PyObject* Counted::take() {
  Ref told(PyDict_New());
  Ref requests(PyDict_New()), calls(PyDict_New()), input(PyDict_New()), output(PyDict_New());
  Ref cost(PyDict_New()), routes(PyDict_New());
  if (!told || !requests || !calls || !input || !output || !cost || !routes) return nullptr;
  if (answered > 0 && !put(requests.get(), "/v1/chat/completions 200", PyLong_FromLongLong(answered))) return nullptr;
  for (const auto& [slug, sums] : listings_) {
    if (!put(calls.get(), slug.c_str(), PyLong_FromLongLong(sums.calls)) ||
        !put(input.get(), slug.c_str(), PyLong_FromLongLong(sums.input_tokens)) ||
        !put(output.get(), slug.c_str(), PyLong_FromLongLong(sums.output_tokens)) ||
        !put(cost.get(), slug.c_str(), PyLong_FromLongLong(sums.cost_u)))
      return nullptr;
  }
  for (const auto& [reason, count] : routes_)
    if (!put(routes.get(), reason.c_str(), PyLong_FromLongLong(count))) return nullptr;
  PyObject* dict = told.get();
  if (!put(dict, "requests", requests.release()) || !put(dict, "calls", calls.release()) ||
      !put(dict, "input_tokens", input.release()) || !put(dict, "output_tokens", output.release()) ||
      !put(dict, "cost_u", cost.release()) || !put(dict, "routes", routes.release()) ||
      !put(dict, "chunks", PyLong_FromLongLong(chunks)) || !put(dict, "promised", PyLong_FromLongLong(promised)) ||
      !put(dict, "express", PyLong_FromLongLong(answered)) || !put(dict, "call_s", call_s.take()) ||
      !put(dict, "upstream_s", upstream_s.take()) || !put(dict, "settle_s", settle_s.take()) ||
      !put(dict, "added_s", added_s.take()) || !put(dict, "first_token_s", first_token_s.take()))
    return nullptr;
  answered = chunks = promised = 0;
  listings_.clear();
  routes_.clear();
  return told.release();
}

}  // namespace express
