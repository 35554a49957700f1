#include "call.hpp"

#include "waiting.hpp"

namespace express {

namespace {

constexpr std::int64_t kBytesAToken = 4;  // `turns._BYTES_A_TOKEN`
constexpr View kJson = "application/json";
constexpr View kEvents = "text/event-stream; charset=utf-8";
constexpr View kOk = "HTTP/1.1 200 OK\r\n";

void append_header(std::string& out, View name, View value) {
  out.append(name).append(": ").append(value).append("\r\n");
}

void append_chunk(std::string& out, View piece) {
  if (piece.empty()) return;  // a chunk of no length would end the answer
  char size[17];
  const int digits = std::snprintf(size, sizeof size, "%zx", piece.size());
  out.append(size, static_cast<std::size_t>(digits)).append("\r\n").append(piece).append("\r\n");
}

Ref as_tuple(const std::vector<Leg>& legs) {
  Ref made(PyTuple_New(static_cast<Py_ssize_t>(legs.size())));
  for (std::size_t i = 0; made && i < legs.size(); ++i) {
    PyObject* leg = Py_BuildValue("(LLL)", static_cast<long long>(legs[i].account),
                                  static_cast<long long>(legs[i].amount), static_cast<long long>(legs[i].sink));
    if (leg == nullptr) return Ref();
    PyTuple_SET_ITEM(made.get(), static_cast<Py_ssize_t>(i), leg);
  }
  return made;
}

Ref as_tuple(const std::vector<Entry>& entries) {
  Ref made(PyTuple_New(static_cast<Py_ssize_t>(entries.size())));
  for (std::size_t i = 0; made && i < entries.size(); ++i) {
    const Entry& e = entries[i];
    PyObject* entry = Py_BuildValue("(LLLL)", static_cast<long long>(e.code), static_cast<long long>(e.debit),
                                    static_cast<long long>(e.credit), static_cast<long long>(e.amount));
    if (entry == nullptr) return Ref();
    PyTuple_SET_ITEM(made.get(), static_cast<Py_ssize_t>(i), entry);
  }
  return made;
}

Ref as_tuple(const std::vector<Value>& row) {
  Ref made(PyTuple_New(static_cast<Py_ssize_t>(row.size())));
  for (std::size_t i = 0; made && i < row.size(); ++i) {
    Ref value = row[i].is_text ? text(row[i].text) : number(row[i].number);
    if (!value) return Ref();
    PyTuple_SET_ITEM(made.get(), static_cast<Py_ssize_t>(i), value.release());
  }
  return made;
}

}  // namespace

bool LaneState::prepare() {
  PyObject* from = hooks.get();
  const struct {
    const char* name;
    Ref& into;
  } wanted[] = {{"books", books},   {"loop", loop}, {"reserves", reserves}, {"charge", charge},
                {"choose", choose}, {"seen", seen}, {"resumed", resumed}};
  for (const auto& [name, into] : wanted) {
    into = attribute(from, name);
    if (!into) return false;
  }
  const Ref of_limits = attribute(from, "limits"), router = attribute(from, "router");
  if (!of_limits || !router || !limits.find(of_limits.get()) || !places.find(router.get())) return false;
  open_reserves = attribute(reserves.get(), "_open");
  if (!open_reserves || !PyDict_Check(open_reserves.get())) return false;
  const Ref module(PyImport_ImportModule("marketplace.gateway.reserves"));
  const Ref reserve = module ? attribute(module.get(), "Reserve") : Ref();
  return reserve && reserve_amount.find(reserve.get(), "amount") && reserve_out.find(reserve.get(), "out") &&
         reserve_calls.find(reserve.get(), "calls") && reserve_most.find(reserve.get(), "most") &&
         read_number(from, "default_max_tokens", default_max_tokens) && read_number(from, "slow_us", slow_us) &&
         prepare_waiting();
}

void LaneState::collect() {
  // Its own: what comes of a call may be that somebody asks for this again.
  std::vector<Answered> answered;
  answered.swap(settled);
  charges->collect(answered);
  for (auto& [charge, outcome] : answered) {
    Call* call = static_cast<Call*>(charge->whose);
    call->charged(std::move(charge), outcome);
  }
  answered.clear();
  settled.swap(answered);
}

bool Call::begin(LaneState& lane, Client& client, const std::shared_ptr<const Known>& known, const Asked& asked,
                 View body, std::int64_t at_us, std::int64_t input_tokens, std::int64_t max_tokens) {
  std::unique_ptr<Call> call(new Call(lane, client, known));
  call->began_us_ = call->held_at_us_ = at_us;
  call->input_tokens_ = input_tokens;
  call->max_tokens_ = max_tokens;
  call->streamed_ = asked.stream;
  call->include_usage_ = asked.include_usage;
  if (!call->promise()) return false;
  if (!call->take_place(body, asked.prompt_cache_key)) {
    call->let_go();
    return false;
  }
  const Way& way = *call->way_;
  ++lane.counted.promised;
  call->begun();
  call->id_ = new_id("gen");
  append_hex(call->sha256_, sha256(body));
  std::string sent;
  write_request(asked, way.engine_model, max_tokens, sent);
  std::string request;
  request.reserve(way.head.size() + sent.size() + 96);
  request.append(way.head).append("x-request-id: ").append(call->id_).append("\r\ncontent-length: ");
  append_number(request, static_cast<std::int64_t>(sent.size()));
  request.append("\r\n\r\n").append(sent);
  client.call = call.get();
  call->flight_ = way.engine->send(std::move(request), asked.stream, call.get());
  call.release();  // it ends itself, in `finish` or `give_up`
  return true;
}

// `Reserves.promise`: plans who pays the most that the call may cost, and takes it from the reserves.
bool Call::promise() {
  const std::vector<i64>& accounts = accounts_of(known_->terms());
  PyObject* open = lane_.open_reserves.get();
  PyObject* reserves[64];
  for (std::size_t i = 0; i < accounts.size(); ++i) {
    reserves[i] = PyDict_GetItemWithError(open, known_->accounts[i].get());
    if (reserves[i] != nullptr) open_ |= std::uint64_t{1} << i;
  }
  if (open_ == 0) return false;
  draw(known_->terms(), input_tokens_, max_tokens_, began_us_, open_, plan_);
  if (plan_.shortfall != 0 || plan_.legs.empty()) return false;
  i64 empty_until_us[64] = {};
  if (!plan_.skipped.empty()) {
    const Ref empty = attribute(lane_.reserves.get(), "_empty_until_us");
    for (std::size_t i = 0; empty && i < accounts.size(); ++i) {
      PyObject* until = PyDict_GetItemWithError(empty.get(), known_->accounts[i].get());
      if (until != nullptr) empty_until_us[i] = PyLong_AsLongLong(until);
    }
  }
  if (PyErr_Occurred() != nullptr) {
    unraisable(lane_.hooks.get());
    return false;
  }
  if (!saw_all(known_->terms(), plan_, open_, empty_until_us, began_us_)) return false;
  for (const Leg& leg : plan_.legs) {
    std::size_t at = 0;
    while (at < accounts.size() && accounts[at] != leg.account) ++at;
    PyObject* reserve = at < accounts.size() ? reserves[at] : nullptr;
    i64 amount = 0, out = 0;
    if (reserve == nullptr || !lane_.reserve_amount.read(reserve, amount) || !lane_.reserve_out.read(reserve, out) ||
        amount - out < leg.amount || !lane_.reserve_out.write(reserve, out + leg.amount)) {
      PyErr_Clear();
      let_go();
      return false;
    }
    promised_.emplace_back(Ref::share(reserve), leg.amount);
  }
  return true;
}

// It is the lane's from now on. By what its reserves have promised, and how often, the next ones are made.
void Call::begun() {
  for (const auto& [held, amount] : promised_) {
    PyObject* const reserve = held.get();
    i64 calls = 0, most = 0;
    if (!lane_.reserve_calls.read(reserve, calls) || !lane_.reserve_calls.write(reserve, calls + 1) ||
        !lane_.reserve_most.read(reserve, most) || (amount > most && !lane_.reserve_most.write(reserve, amount)))
      unraisable(reserve);
  }
  place_among_ = lane_.running.size();
  lane_.running.push_back(this);
}

void Call::over() {
  std::vector<Call*>& running = lane_.running;
  running[place_among_] = running.back();
  running[place_among_]->place_among_ = place_among_;
  running.pop_back();
}

void Call::abandon() {
  over();
  if (flight_ != nullptr) flight_->cut_off();
  if (waiting_) forget_call(waiting_.get());
  client_->call = nullptr;
  give_back();
  delete this;
}

// As if it had never been taken.
void Call::give_back() {
  let_go();
  if (lane_.places.taken(place_)) lane_.places.abandoned(place_);
  leave_gate("give_back");
  lane_.limits.leave(taken_, 0);
}

// `Reserves.let_go`.
void Call::let_go() {
  for (const auto& [held, amount] : promised_) {
    PyObject* const reserve = held.get();
    i64 out = 0;
    if (!lane_.reserve_out.read(reserve, out) || !lane_.reserve_out.write(reserve, out - amount)) unraisable(reserve);
  }
  promised_.clear();
}

// Takes its part of every limit, its turn and a place on an engine; false when it does not get all of them as a
// matter of course, and then it has none.
bool Call::take_place(View body, View hint) {
  if (!lane_.limits.enter(known_->quotas, input_tokens_ + max_tokens_, began_us_, taken_)) return false;
  if (!enter_gate()) {
    lane_.limits.leave(taken_, 0);
    return false;
  }
  if (known_->ways.size() == 1) {
    way_ = &known_->ways.front();
    if (!lane_.places.take(way_->endpoint_id.get(), place_)) way_ = nullptr;
  } else {
    const Ref said = bytes(body), meant = text(hint);
    PyObject* arguments[] = {known_->all.get(), said.get(), meant.get()};
    Ref chosen(said && meant ? PyObject_Vectorcall(lane_.choose.get(), arguments, 3, nullptr) : nullptr);
    if (!chosen) unraisable(lane_.choose.get());
    if (chosen && chosen.get() != Py_None) {
      const Ref endpoint = attribute(chosen.get(), "candidate");
      for (const Way& way : known_->ways)
        if (way.endpoint.get() == endpoint.get()) way_ = &way;
      place_.choice = std::move(chosen);
      if (!read_text(place_.choice.get(), "why", why_)) way_ = nullptr;
      if (way_ == nullptr) {
        PyErr_Clear();
        lane_.places.abandoned(place_);
      }
    }
  }
  if (way_ == nullptr) {
    leave_gate("give_back");
    lane_.limits.leave(taken_, 0);
    return false;
  }
  lane_.limits.append_headers(taken_, limit_headers_);
  return true;
}

// `FairGate.enter_now`: whether a place is free for it.
bool Call::enter_gate() {
  if (!known_->gate) return true;
  const Ref tokens = number(input_tokens_ / kBytesAToken), name = text("enter_now");
  PyObject* arguments[] = {known_->gate.get(), known_->org_id.get(), tokens.get()};
  Ref place(tokens && name ? PyObject_VectorcallMethod(name.get(), arguments, 3, nullptr) : nullptr);
  if (!place) unraisable(known_->gate.get());
  if (!place || place.get() == Py_None) return false;
  gate_place_ = std::move(place);
  return true;
}

// `FairGate.leave` with what the call came to, or `give_back` where nothing was made of it.
void Call::leave_gate(const char* how) {
  if (!gate_place_) return;
  const Ref left(View(how) == "leave" ? PyObject_CallMethod(known_->gate.get(), how, "OLL", gate_place_.get(),
                                                            static_cast<long long>(used_.output + used_.reasoning),
                                                            static_cast<long long>(used_.input()))
                                      : PyObject_CallMethod(known_->gate.get(), how, "O", gate_place_.get()));
  if (!left) unraisable(known_->gate.get());
  gate_place_.drop();
}

void Call::slow(bool slow) {
  if (flight_ == nullptr) return;
  if (slow)
    flight_->pause();
  else
    flight_->resume();
}

void Call::left() {
  if (settling_) return;  // what has been made whole is charged, whoever is there to read it
  bool sent = false;
  if (flight_ != nullptr) {
    sent = flight_->sent();
    flight_->cut_off();
    flight_ = nullptr;
  }
  answered_at_us_ = now_us();
  give_up("left", sent);
}

void Call::piece(View bytes) {
  std::string forward;
  const bool well = reader_.feed(bytes, forward);
  if (!forward.empty()) {
    ++lane_.counted.chunks;
    std::string out;
    if (!head_out_) {
      head_out_ = true;
      lane_.places.answered(place_);
      first_token_us_ = now_us() - began_us_;
      out = stream_head();
    }
    append_chunk(out, forward);
    client_->write(out);
  }
  if (well) return;
  if (flight_ != nullptr) flight_->cut_off();
  flight_ = nullptr;
  give_up("broken");
}

void Call::landed(Answer&& answer) {
  flight_ = nullptr;
  answer_ = std::move(answer);
  answered_at_us_ = now_us();
  const bool plain =
      answer_.status == 200 && (!streamed_ || (reader_.done() && (!include_usage_ || !reader_.usage_chunk().empty())));
  if (!plain || !read_usage(streamed_ ? View(reader_.usage()) : View(answer_.body), used_, raw_usage_)) {
    give_up("answer");
    return;
  }
  settle();
}

void Call::broke(Failure failure) {
  flight_ = nullptr;
  answered_at_us_ = 0;
  give_up(failure == Failure::unreachable ? "unreachable" : failure == Failure::silent ? "silent" : "broken");
}

// `Exchange._settle`.
void Call::settle() {
  if (!express::settle(known_->terms(), plan_, used_, input_tokens_, max_tokens_, began_us_, bill_)) {
    give_up("answer");
    return;
  }
  settling_ = true;
  ended_us_ = now_us();
  auto charge = std::make_unique<Charge>();
  charge->tx = id_;
  charge->legs = bill_.legs;
  charge->entries = bill_.entries;
  charge->usage =
      usage_row(*way_->terms, bill_,
                Told{id_, raw_usage_, sha256_, "engine", "ok", why_, began_us_, first_token_us_, ended_us_, streamed_});
  charge->at_us = ended_us_;
  charge->whose = this;
  if (lane_.charges)
    lane_.charges->send(std::move(charge));
  else
    charge_in_python(*charge);
}

void Call::charge_in_python(const Charge& charge) {
  LaneState& lane = lane_;
  const Ref waiting = make_waiting(this, lane.loop.get());
  waiting_ = Ref::share(waiting.get());
  const Ref tx = text(charge.tx), legs = as_tuple(charge.legs), entries = as_tuple(charge.entries);
  const Ref usage = as_tuple(charge.usage), at_us = number(charge.at_us);
  if (waiting && tx && legs && entries && usage && at_us) {
    PyObject* arguments[] = {tx.get(), legs.get(), entries.get(), usage.get(), at_us.get(), waiting.get()};
    const Ref sent(PyObject_Vectorcall(lane.charge.get(), arguments, 6, nullptr));
    if (sent) return;
  }
  unraisable(lane.charge.get());
  if (waiting && !forget_call(waiting.get())) return;  // it was told all the same, and this call is over
  settling_ = false;
  waiting_.drop();
  give_up("answer");
}

void Call::charged(std::unique_ptr<Charge> charge, Outcome outcome) {
  if (outcome == Outcome::booked) {
    booked();
  } else if (outcome == Outcome::unsure) {
    charge_in_python(*charge);
  } else {
    settling_ = false;
    give_up("answer");
  }
}

void Call::charged_by_python(PyObject* error) {
  waiting_.drop();
  if (error == nullptr) {
    booked();
    return;
  }
  settling_ = false;
  give_up("answer");
}

void Call::booked() {
  const std::int64_t settled_us = now_us();
  Counted& counted = lane_.counted;
  Counted::OfListing& sums = counted.of(known_->slug);
  ++sums.calls;
  const std::int64_t output_tokens = used_.output + used_.reasoning;
  sums.input_tokens += used_.input();
  sums.output_tokens += output_tokens;
  sums.cost_u += bill_.cost;
  if (why_ != "only") counted.why(why_);
  const std::int64_t total_us = settled_us - began_us_, upstream_us = answered_at_us_ - held_at_us_;
  counted.call_s.observe_us(total_us);
  counted.upstream_s.observe_us(upstream_us);
  counted.settle_s.observe_us(settled_us - ended_us_);
  counted.added_s.observe_us(total_us - upstream_us);
  if (first_token_us_ != 0) counted.first_token_s.observe_us(first_token_us_);
  if (streamed_)
    end_stream();
  else
    answer_whole();
  lane_.places.ended(place_, output_tokens);
  leave_gate("leave");
  let_go();
  lane_.limits.leave(taken_, used_.input() + output_tokens);
  ++counted.answered;
  const std::int64_t over_us = now_us();
  if (over_us - began_us_ >= lane_.slow_us) {
    const Ref answer(PyObject_CallFunction(
        lane_.seen.get(), "OsLLLLLLLOLLLLs", way_->object.get(), id_.c_str(), static_cast<long long>(began_us_),
        static_cast<long long>(held_at_us_), static_cast<long long>(first_token_us_),
        static_cast<long long>(answered_at_us_), static_cast<long long>(settled_us), static_cast<long long>(over_us),
        static_cast<long long>(max_tokens_), streamed_ ? Py_True : Py_False, static_cast<long long>(used_.input()),
        static_cast<long long>(used_.cache_read), static_cast<long long>(output_tokens),
        static_cast<long long>(bill_.cost), why_.c_str()));
    if (!answer) unraisable(lane_.seen.get());
  }
  finish();
}

// `Call.answer_headers`, behind the content's type.
void Call::append_answer_head(std::string& out, View content_type) const {
  out.append(kOk);
  append_header(out, "content-type", content_type);
  if (streamed_) {
    append_header(out, "cache-control", "no-cache");
    append_header(out, "x-accel-buffering", "no");
  }
  for (const View name : {View("x-tm-generation"), View("x-request-id"), View("request-id")})
    append_header(out, name, id_);
  append_header(out, "x-tm-price-version", known_->price_version_id);
  out.append(limit_headers_);
}

std::string Call::stream_head() const {
  std::string out;
  append_answer_head(out, kEvents);
  append_header(out, "transfer-encoding", "chunked");
  if (client_->closing()) append_header(out, "connection", "close");
  out.append("\r\n");
  return out;
}

void Call::answer_whole() {
  std::string out;
  out.reserve(answer_.body.size() + 640);
  append_answer_head(out, kJson);
  append_cost_headers(bill_, out);
  if (client_->closing()) append_header(out, "connection", "close");
  out.append("content-length: ");
  append_number(out, static_cast<std::int64_t>(answer_.body.size()));
  out.append("\r\n\r\n").append(answer_.body);
  client_->write(out);
}

void Call::end_stream() {
  std::string last;
  if (include_usage_) last.append(reader_.usage_chunk()).append("\n\n");
  last.append(": cost_u=");
  append_number(last, bill_.cost);
  last.append("\n\ndata: [DONE]\n\n");
  std::string out;
  if (!head_out_) {
    // After the bill, as in `Exchange._stream_ended`: it tells of no first token, and the log does.
    lane_.places.answered(place_);
    first_token_us_ = now_us() - began_us_;
    out = stream_head();
  }
  append_chunk(out, last);
  out.append("0\r\n\r\n");
  client_->write(out);
}

void Call::finish() {
  over();
  Client* client = client_;
  client->call = nullptr;
  delete this;
  client->done();
}

void Call::give_up(const char* kind, bool sent) {
  over();
  PyObject* arguments = arguments_of(kind, sent);
  Ref resumed;
  if (arguments != nullptr) {
    resumed = Ref(PyObject_Call(lane_.resumed.get(), arguments, nullptr));
    Py_DECREF(arguments);
  }
  Client* client = client_;
  client->call = nullptr;
  if (resumed && client->give_up(resumed.get())) {
    // All of it is that one's now.
    Limits::forget(taken_);
    place_ = Place();
    delete this;
    return;
  }
  if (!resumed) unraisable(lane_.resumed.get());
  // Not even that could be said. Whoever has read nothing yet is served by Python, from the request's start.
  const bool may_begin_anew = !resumed && !head_out_ && !client->gone();
  give_back();
  delete this;
  if (may_begin_anew)
    client->give_up(Py_None);
  else
    client->break_off();
}

// The arguments of `hooks.resumed`; null with a Python error set.
PyObject* Call::arguments_of(const char* kind, bool sent) {
  const std::vector<i64>& accounts = accounts_of(known_->terms());
  Ref open(PyList_New(0));
  Ref promised(PyTuple_New(static_cast<Py_ssize_t>(promised_.size())));
  Ref headers(PyDict_New());
  if (!open || !promised || !headers) return nullptr;
  for (std::size_t i = 0; i < accounts.size(); ++i)
    if ((open_ >> i & 1) != 0 && PyList_Append(open.get(), known_->accounts[i].get()) < 0) return nullptr;
  for (std::size_t i = 0; i < promised_.size(); ++i) {
    PyObject* pair = Py_BuildValue("(OL)", promised_[i].first.get(), static_cast<long long>(promised_[i].second));
    if (pair == nullptr) return nullptr;
    PyTuple_SET_ITEM(promised.get(), static_cast<Py_ssize_t>(i), pair);
  }
  for (const auto& [name, value] : answer_.headers) {
    const Ref key = bytes(name), held = bytes(value);
    if (!key || !held || PyDict_SetItem(headers.get(), key.get(), held.get()) < 0) return nullptr;
  }
  const Ref ticket = lane_.limits.ticket(taken_);
  const Ref choice = lane_.places.choice(place_, way_->endpoint.get(), known_->org_id.get());
  const Ref accounts_open(PyList_AsTuple(open.get()));
  const bool stream = streamed_ && (answer_.status == 0 || answer_.status == 200);
  const Ref limit_lines = bytes(limit_headers_);
  const Ref body = stream ? bytes(reader_.tail()) : bytes(answer_.body);
  if (!ticket || !choice || !accounts_open || !body || !limit_lines) return nullptr;
  return Py_BuildValue(
      "OOOOOsLLLLLLOsOOiOOOOO", way_->object.get(), ticket.get(), choice.get(), promised.get(), accounts_open.get(),
      id_.c_str(), static_cast<long long>(began_us_), static_cast<long long>(held_at_us_),
      static_cast<long long>(first_token_us_), static_cast<long long>(answered_at_us_),
      static_cast<long long>(input_tokens_), static_cast<long long>(max_tokens_), streamed_ ? Py_True : Py_False, kind,
      sent ? Py_True : Py_False, head_out_ ? Py_True : Py_False, answer_.status, headers.get(), body.get(),
      known_->gate ? known_->gate.get() : Py_None, gate_place_ ? gate_place_.get() : Py_None, limit_lines.get());
}

}  // namespace express
