// Terms out of Python's records. What is stranger than the rules of pay.cpp know is refused: Python serves it.
#include "made.hpp"

#include <algorithm>
#include <limits>

namespace express {

using namespace rules;

namespace {

constexpr i64 kAny = std::numeric_limits<i64>::max();
constexpr std::size_t kMostAccounts = 64;

// Reads attributes until something is wrong: from then on every read is empty, and nothing more is asked of
// Python. Whether it was an error or a refusal is told by Python's error indicator.
class RecordReader {
 public:
  bool failed() const { return failed_; }
  void refuse() { failed_ = true; }

  Ref attribute(PyObject* object, const char* name) {
    if (failed_ || object == nullptr) return Ref();
    Ref found(PyObject_GetAttrString(object, name));
    if (!found) failed_ = true;
    return found;
  }

  i64 whole(PyObject* value, i64 least, i64 most) {
    if (failed_ || value == nullptr) return 0;
    int overflow = 0;
    const i64 number = PyLong_CheckExact(value) ? PyLong_AsLongLongAndOverflow(value, &overflow) : 0;
    if (!PyLong_CheckExact(value) || overflow != 0 || number < least || number > most) {
      refuse();
      return 0;
    }
    return number;
  }

  i64 whole(PyObject* object, const char* name, i64 least, i64 most) {
    return whole(attribute(object, name).get(), least, most);
  }

  // A rate that may be left out.
  i64 rate(PyObject* object, const char* name, i64 otherwise) {
    const Ref value = attribute(object, name);
    return value.get() == Py_None ? otherwise : whole(value.get(), 0, kMostRate);
  }

  bool flag(PyObject* object, const char* name) {
    const Ref value = attribute(object, name);
    if (value && !PyBool_Check(value.get())) refuse();
    return value.get() == Py_True;
  }

  // The text stays where it is, in a string that is added to `kept`.
  View text(PyObject* object, const char* name, std::vector<Ref>& kept) {
    Ref value = attribute(object, name);
    if (!value) return View();
    if (!PyUnicode_CheckExact(value.get())) {
      refuse();
      return View();
    }
    Py_ssize_t size = 0;
    const char* bytes = PyUnicode_AsUTF8AndSize(value.get(), &size);
    if (bytes == nullptr) {
      if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) PyErr_Clear();  // half of a surrogate pair
      refuse();
      return View();
    }
    kept.push_back(std::move(value));
    return View(bytes, static_cast<std::size_t>(size));
  }

  Ref tuple(PyObject* object, const char* name) {
    Ref value = attribute(object, name);
    if (value && !PyTuple_Check(value.get())) refuse();
    return failed_ ? Ref() : std::move(value);
  }

 private:
  bool failed_ = false;
};

Py_ssize_t size_of(const Ref& tuple) { return tuple ? PyTuple_GET_SIZE(tuple.get()) : 0; }

Rates read_rates(RecordReader& reader, PyObject* part, i64 over) {
  Rates r{};
  r.over = over;
  r.input = reader.whole(part, "input_u_per_m", 0, kMostRate);
  r.output = reader.whole(part, "output_u_per_m", 0, kMostRate);
  r.cache_read = reader.rate(part, "cache_read_u_per_m", r.input);
  r.cache_write = reader.rate(part, "cache_write_u_per_m", r.input);
  r.reasoning = reader.rate(part, "reasoning_u_per_m", r.output);
  r.dearest_input = std::max({r.input, r.cache_read, r.cache_write});
  r.dearest_output = std::max(r.output, r.reasoning);
  return r;
}

// The minute of `HH:MM`. Python reads some odder forms too; they are left to it.
int read_minute(RecordReader& reader, PyObject* window, const char* name) {
  std::vector<Ref> kept;
  const View text = reader.text(window, name, kept);
  const auto digit = [&](std::size_t at) { return text[at] >= '0' && text[at] <= '9'; };
  if (text.size() != 5 || text[2] != ':' || !digit(0) || !digit(1) || !digit(3) || !digit(4)) {
    reader.refuse();
    return 0;
  }
  const int hour = (text[0] - '0') * 10 + text[1] - '0';
  const int minute = (text[3] - '0') * 10 + text[4] - '0';
  if (hour > 23 || minute > 59) reader.refuse();
  return hour * 60 + minute;
}

void read_price(RecordReader& reader, PyObject* components, Terms::Made& made) {
  made.rates.push_back(read_rates(reader, components, -1));
  made.request_u = reader.whole(components, "request_u", 0, kMostRate);
  const Ref tiers = reader.tuple(components, "tiers");
  for (Py_ssize_t i = 0; i < size_of(tiers); ++i) {
    PyObject* tier = PyTuple_GET_ITEM(tiers.get(), i);
    const i64 over = reader.whole(tier, "over_input_tokens", 0, kAny);
    if (over <= made.rates.back().over) reader.refuse();  // they rise
    made.rates.push_back(read_rates(reader, tier, over));
  }
  const Ref windows = reader.tuple(components, "off_peak");
  for (Py_ssize_t i = 0; i < size_of(windows); ++i) {
    PyObject* window = PyTuple_GET_ITEM(windows.get(), i);
    const int begin = read_minute(reader, window, "begin"), end = read_minute(reader, window, "end");
    made.windows.push_back({begin, end, reader.whole(window, "ratio_bp", 0, kWholeBp)});
  }
}

void read_books(RecordReader& reader, PyObject* books, Books& into) {
  into.clearing = reader.whole(books, "clearing", 0, kAny);
  into.overrun = reader.whole(books, "overrun", 0, kAny);
  into.rounding = reader.whole(books, "rounding", 0, kAny);
  into.free_cost = reader.whole(books, "free_cost", 0, kAny);
  into.fee = reader.whole(books, "fee", 0, kAny);
}

void add_account(RecordReader& reader, PyObject* value, std::vector<i64>& accounts) {
  const i64 account = reader.whole(value, 0, kAny);
  if (std::find(accounts.begin(), accounts.end(), account) == accounts.end()) accounts.push_back(account);
  if (accounts.size() > kMostAccounts) reader.refuse();
}

// Where the account stands among those that may pay. One that does not is refused: its money would not be seen.
int index_of(RecordReader& reader, const std::vector<i64>& accounts, i64 account) {
  const auto found = std::find(accounts.begin(), accounts.end(), account);
  if (found == accounts.end()) reader.refuse();
  return static_cast<int>(found - accounts.begin());
}

void read_accounts(RecordReader& reader, PyObject* payer, PyObject* caps, Terms::Made& made) {
  const Ref accounts = reader.tuple(payer, "accounts");
  for (Py_ssize_t i = 0; i < size_of(accounts) && !reader.failed(); ++i) {
    add_account(reader, PyTuple_GET_ITEM(accounts.get(), i), made.accounts);
  }
  const Ref windows = reader.tuple(caps, "caps");
  for (Py_ssize_t i = 0; i < size_of(windows) && !reader.failed(); ++i) {
    const Ref account = reader.attribute(PyTuple_GET_ITEM(windows.get(), i), "account_id");
    made.caps.push_back(reader.whole(account.get(), 0, kAny));
    add_account(reader, account.get(), made.accounts);
  }
  made.caps_sink = reader.whole(caps, "sink_id", 0, kAny);
}

// `sinks.get(account, clearing)`
i64 read_sink(RecordReader& reader, PyObject* sinks, i64 account, i64 clearing) {
  if (reader.failed()) return 0;
  const Ref key(PyLong_FromLongLong(account));
  PyObject* sink = key ? PyDict_GetItemWithError(sinks, key.get()) : nullptr;  // borrowed
  if (sink != nullptr) return reader.whole(sink, 0, kAny);
  if (PyErr_Occurred() != nullptr) reader.refuse();
  return clearing;
}

Step read_step(RecordReader& reader, PyObject* step, PyObject* sinks, const Terms::Made& made) {
  Step s{};
  s.account = reader.whole(step, "account_id", 0, kAny);
  s.sink = read_sink(reader, sinks, s.account, made.books.clearing);
  s.starts_us = reader.whole(step, "effective_at_us", -kAny, kAny);
  s.ends_us = reader.whole(step, "expires_at_us", -kAny, kAny);
  s.bit = reader.whole(step, "bit", 0, kAny);
  s.takes = reader.whole(step, "takes", 0, kAny);
  s.ratio_bp = reader.whole(step, "ratio_bp", 0, kWholeBp);
  s.cap_bp = reader.whole(step, "cap_bp", 0, kWholeBp);
  s.unit = static_cast<int>(reader.whole(step, "unit", kCny, kReq));
  s.kind = static_cast<int>(reader.whole(step, "kind", kFree, kReimburse));
  s.base = static_cast<int>(reader.whole(step, "base", kResidual, kList));
  s.chain = static_cast<int>(reader.whole(step, "chain", 0, kMostChain));
  s.index = index_of(reader, made.accounts, s.account);
  return s;
}

void read_ladder(RecordReader& reader, PyObject* payer, Terms::Made& made) {
  const Ref ladder = reader.attribute(payer, "ladder");
  const Ref sinks = reader.attribute(payer, "sinks");
  if (sinks && !PyDict_Check(sinks.get())) reader.refuse();
  made.built_at_us = reader.whole(payer, "built_at_us", -kAny, kAny);
  made.needs_slack = reader.flag(ladder.get(), "needs_slack");
  // None where the model was called by its free name: refused, as every number that is none.
  made.wallet = reader.whole(ladder.get(), "wallet_account_id", 0, kAny);
  made.wallet_index = index_of(reader, made.accounts, made.wallet);
  const Ref steps = reader.tuple(ladder.get(), "steps");
  if (size_of(steps) > static_cast<Py_ssize_t>(kMostAccounts)) reader.refuse();
  for (Py_ssize_t i = 0; i < size_of(steps) && !reader.failed(); ++i) {
    made.steps.push_back(read_step(reader, PyTuple_GET_ITEM(steps.get(), i), sinks.get(), made));
  }
}

// Whether the text stands between quotes in JSON as it is: the event's route is put together, not encoded.
bool plain(View text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\'; });
}

void read_names(RecordReader& reader, PyObject* terms, PyObject* record, Terms::Made& made) {
  const Ref key = reader.attribute(terms, "key");
  made.org_id = reader.text(key.get(), "org_id", made.kept);
  made.key_id = reader.text(key.get(), "id", made.kept);
  made.project_id = reader.text(key.get(), "project_id", made.kept);
  const Ref listing = reader.attribute(record, "listing");
  made.slug = reader.text(listing.get(), "slug", made.kept);
  if (reader.attribute(listing.get(), "release_id").get() != Py_None) {
    made.release = reader.text(listing.get(), "release_id", made.kept);
  }
  made.owner_org = reader.text(listing.get(), "owner_org", made.kept);
  made.price_version = reader.text(record, "price_version_id", made.kept);
  made.prices = reader.text(record, "components_text", made.kept);
  const Ref endpoint = reader.attribute(terms, "endpoint");
  made.endpoint = reader.text(endpoint.get(), "id", made.kept);
  if (!plain(made.endpoint)) reader.refuse();
}

}  // namespace

std::unique_ptr<Terms> Terms::of(PyObject* terms, PyObject* books) {
  auto read = std::make_unique<Made>();
  Made& made = *read;
  RecordReader reader;
  read_books(reader, books, made.books);
  const Ref record = reader.attribute(terms, "record"), payer = reader.attribute(terms, "payer");
  const Ref caps = reader.attribute(terms, "caps"), components = reader.attribute(record.get(), "components");
  made.owner = reader.whole(record.get(), "owner_account_id", 0, kAny);
  made.fee_bp = reader.whole(record.get(), "fee_bp", 0, kWholeBp);
  read_price(reader, components.get(), made);
  read_accounts(reader, payer.get(), caps.get(), made);
  read_ladder(reader, payer.get(), made);
  read_names(reader, terms, record.get(), made);
  if (reader.failed()) return nullptr;
  auto of = std::make_unique<Terms>();
  of->made_ = std::move(read);
  return of;
}

Terms::~Terms() = default;

}  // namespace express
