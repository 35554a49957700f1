#include "limits.hpp"

namespace express {

namespace {

using Wide = __int128;

constexpr std::int64_t kUsPs = 1'000'000;
constexpr std::int64_t kMsPs = 1000 * kUsPs;
constexpr std::int64_t kMinutePs = 60'000 * kMsPs;
constexpr std::int64_t kUnlimited = std::int64_t{1} << 62;
constexpr std::int64_t kMostPs = std::int64_t{1} << 61;  // `limits._MOST_PS`: beyond it Python moves the origin

void append_field(std::string& out, View name, View kind) {
  out.append("x-ratelimit-").append(name).append(kind).append(": ");
}

void append_count(std::string& out, View name, View kind, std::int64_t value) {
  append_field(out, name, kind);
  append_number(out, value);
  out.append("\r\n");
}

// `meters.duration`.
void append_duration(std::string& out, std::int64_t ps) {
  if (ps <= 0) {
    out.append("0s");
    return;
  }
  std::int64_t ms = ps / kMsPs + (ps % kMsPs != 0);
  if (ms < 1000) {
    append_number(out, ms);
    out.append("ms");
    return;
  }
  std::int64_t seconds = ms / 1000;
  ms %= 1000;
  const std::int64_t minutes = seconds / 60;
  if (minutes >= 60) {
    append_number(out, minutes / 60);
    out.append("h");
  }
  if (minutes > 0) {
    append_number(out, minutes % 60);
    out.append("m");
  }
  append_number(out, seconds % 60);
  if (ms != 0) {
    char fraction[4] = {'.', static_cast<char>('0' + ms / 100), static_cast<char>('0' + ms / 10 % 10),
                        static_cast<char>('0' + ms % 10)};
    std::size_t size = sizeof fraction;
    while (fraction[size - 1] == '0') --size;
    out.append(fraction, size);
  }
  out.append("s");
}

}  // namespace

struct Limits::Numbers {
  std::int64_t requests_at, tokens_at, running, request, burst, token, most;
};

bool read_quotas(PyObject* tuple, std::vector<Quota>& quotas) {
  if (!PyTuple_Check(tuple)) {
    PyErr_SetString(PyExc_TypeError, "quotas are no tuple");
    return false;
  }
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    Quota quota;
    quota.object = Ref::share(PyTuple_GET_ITEM(tuple, i));
    quota.subject = attribute(quota.object.get(), "subject");
    if (!quota.subject) return false;
    quotas.push_back(std::move(quota));
  }
  return true;
}

bool Limits::find(PyObject* limits) {
  limits_ = Ref::share(limits);
  const Ref module(PyImport_ImportModule("marketplace.gateway.limits"));
  const Ref meters(PyImport_ImportModule("marketplace.gateway.meters"));
  if (!module || !meters) return false;
  ticket_type_ = attribute(module.get(), "Ticket");
  const Ref meter = attribute(meters.get(), "Meter");
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(limits));
  return ticket_type_ && meter && now_ps_.find(type, "now_ps") && origin_us_.find(type, "_origin_us") &&
         shifted_us_.find(type, "shifted_us") && find_slot(type, "_meters", meters_at_) &&
         find_slot(meter.get(), "quota", quota_at_) && requests_at_ps_.find(meter.get(), "requests_at_ps") &&
         tokens_at_ps_.find(meter.get(), "tokens_at_ps") && running_.find(meter.get(), "running") &&
         request_ps_.find(meter.get(), "request_ps") && burst_ps_.find(meter.get(), "burst_ps") &&
         token_ps_.find(meter.get(), "token_ps") && most_.find(meter.get(), "most");
}

bool Limits::read(PyObject* meter, Numbers& n) const {
  return requests_at_ps_.read(meter, n.requests_at) && tokens_at_ps_.read(meter, n.tokens_at) &&
         running_.read(meter, n.running) && request_ps_.read(meter, n.request) && burst_ps_.read(meter, n.burst) &&
         token_ps_.read(meter, n.token) && most_.read(meter, n.most);
}

bool Limits::enter(const std::vector<Quota>& quotas, std::int64_t tokens, std::int64_t now_us, Taken& taken) {
  std::int64_t before_ps = 0, origin_us = 0;
  PyObject* known = slot_at(limits_.get(), meters_at_);
  if (quotas.size() > kMostQuotas || known == nullptr || !now_ps_.read(limits_.get(), before_ps) ||
      !origin_us_.read(limits_.get(), origin_us) || !shifted_us_.read(limits_.get(), taken.shifted_us)) {
    PyErr_Clear();
    return false;
  }
  const Wide now = static_cast<Wide>(now_us - origin_us) * kUsPs;
  if (now < before_ps || now > kMostPs) return false;  // Python knows what to make of such clocks
  const auto now_ps = static_cast<std::int64_t>(now);
  std::array<PyObject*, kMostQuotas> meters{};
  std::array<Numbers, kMostQuotas> after;
  for (std::size_t i = 0; i < quotas.size(); ++i) {
    meters[i] = PyDict_GetItemWithError(known, quotas[i].subject.get());
    if (meters[i] == nullptr || slot_at(meters[i], quota_at_) != quotas[i].object.get() || !read(meters[i], after[i])) {
      PyErr_Clear();
      return false;
    }
    Numbers& n = after[i];
    const std::int64_t tokens_at = n.tokens_at < now_ps ? now_ps : n.tokens_at;
    n.requests_at = (n.requests_at < now_ps ? now_ps : n.requests_at) + n.request;
    const Wide due = static_cast<Wide>(tokens) * n.token + tokens_at;
    if (n.requests_at - now_ps > n.burst || n.running >= n.most || due > kUnlimited ||
        (due - now_ps > kMinutePs && tokens_at > now_ps))
      return false;
    n.tokens_at = static_cast<std::int64_t>(due);
  }
  now_ps_.write(limits_.get(), now_ps);
  for (std::size_t i = 0; i < quotas.size(); ++i) {
    requests_at_ps_.write(meters[i], after[i].requests_at);
    tokens_at_ps_.write(meters[i], after[i].tokens_at);
    running_.write(meters[i], after[i].running + 1);
    taken.meters[i] = Py_NewRef(meters[i]);
    taken.due_ps[i] = after[i].tokens_at;
  }
  taken.count = quotas.size();
  taken.reserved = tokens;
  return true;
}

void Limits::append_headers(const Taken& taken, std::string& out) const {
  std::int64_t now_ps = 0;
  if (!now_ps_.read(limits_.get(), now_ps)) PyErr_Clear();
  Numbers requests{}, tokens{};
  std::int64_t requests_left = kUnlimited, tokens_left = kUnlimited;
  for (std::size_t i = 0; i < taken.count; ++i) {
    Numbers n;
    if (!read(taken.meters[i], n)) {
      PyErr_Clear();
      continue;
    }
    const auto left_of = [now_ps](std::int64_t whole, std::int64_t at, std::int64_t interval) {
      const std::int64_t ahead = at > now_ps ? at - now_ps : 0, left = whole - ahead;
      return left >= 0 ? left / interval : -((-left + interval - 1) / interval);
    };
    if (n.request != 0) {
      const std::int64_t left = left_of(n.burst, n.requests_at, n.request);
      if (left < requests_left) requests = n, requests_left = left;
    }
    if (n.token != 0) {
      const std::int64_t left = left_of(kMinutePs, n.tokens_at, n.token);
      if (left < tokens_left) tokens = n, tokens_left = left;
    }
  }
  if (requests.request != 0) {
    append_count(out, "limit-", "requests", requests.burst / requests.request);
    append_count(out, "remaining-", "requests", requests_left);
    append_field(out, "reset-", "requests");
    append_duration(out, requests.requests_at - now_ps);
    out.append("\r\n");
  }
  if (tokens.token != 0) {
    append_count(out, "limit-", "tokens", kMinutePs / tokens.token);
    append_count(out, "remaining-", "tokens", tokens_left > 0 ? tokens_left : 0);
    append_field(out, "reset-", "tokens");
    append_duration(out, tokens.tokens_at - now_ps);
    out.append("\r\n");
  }
}

void Limits::leave(Taken& taken, std::int64_t tokens_used) {
  std::int64_t now_ps = 0, shifted_us = 0;
  if (!now_ps_.read(limits_.get(), now_ps) || !shifted_us_.read(limits_.get(), shifted_us)) PyErr_Clear();
  const Wide unused = static_cast<Wide>(taken.reserved) - tokens_used;
  for (std::size_t i = 0; i < taken.count; ++i) {
    PyObject* meter = taken.meters[i];
    Numbers n;
    if (read(meter, n)) {
      const Wide back = unused * n.token;
      if (unused > 0) {
        const Wide left =
            static_cast<Wide>(taken.due_ps[i]) - now_ps - static_cast<Wide>(shifted_us - taken.shifted_us) * kUsPs;
        if (left > 0 && n.token != 0)
          tokens_at_ps_.write(meter, n.tokens_at - static_cast<std::int64_t>(back < left ? back : left));
      } else if (unused < 0 && n.token != 0) {
        const Wide at = static_cast<Wide>(n.tokens_at > now_ps ? n.tokens_at : now_ps) - back;
        tokens_at_ps_.write(meter, static_cast<std::int64_t>(at < kUnlimited ? at : kUnlimited));
      }
      running_.write(meter, n.running - 1);
    }
    if (PyErr_Occurred() != nullptr) unraisable(meter);
  }
  forget(taken);
}

void Limits::forget(Taken& taken) {
  for (std::size_t i = 0; i < taken.count; ++i) Py_DECREF(taken.meters[i]);
  taken.count = 0;
}

Ref Limits::ticket(const Taken& taken) const {
  Ref meters(PyList_New(static_cast<Py_ssize_t>(taken.count)));
  Ref due(PyList_New(static_cast<Py_ssize_t>(taken.count)));
  if (!meters || !due) return Ref();
  for (std::size_t i = 0; i < taken.count; ++i) {
    PyObject* due_ps = PyLong_FromLongLong(taken.due_ps[i]);
    if (due_ps == nullptr) return Ref();
    PyList_SET_ITEM(meters.get(), static_cast<Py_ssize_t>(i), Py_NewRef(taken.meters[i]));
    PyList_SET_ITEM(due.get(), static_cast<Py_ssize_t>(i), due_ps);
  }
  return Ref(PyObject_CallFunction(ticket_type_.get(), "OOOLL", limits_.get(), meters.get(), due.get(),
                                   static_cast<long long>(taken.reserved), static_cast<long long>(taken.shifted_us)));
}

}  // namespace express
