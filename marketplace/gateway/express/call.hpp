// One call in the express lane, from the request that was taken to the answer that is paid.
//
//   begin ─► engine ─┬─ whole answer ─► settle ─► headers with the cost, body
//                    ├─ stream ─► pieces as they come ─► settle ─► usage chunk, cost, [DONE]
//                    └─ anything else ─► `give_up`: Python goes on with it (`Exchange.resume`)
#pragma once
#include "python.hpp"

#include <memory>
#include <string>
#include <vector>

#include "charges.hpp"
#include "counted.hpp"
#include "limits.hpp"
#include "pay.hpp"
#include "places.hpp"
#include "request.hpp"
#include "stream.hpp"
#include "wire.hpp"

namespace express {

class Call;

// One of the engines of a listing, with the terms of a call that goes there.
struct Way {
  std::unique_ptr<Terms> terms;
  Ref object;  // Python's Terms
  Ref endpoint, endpoint_id;
  std::shared_ptr<Engine> engine;
  std::string head;          // the engine's request head: all that is the same each time
  std::string engine_model;  // its name there, as JSON
};

// Who calls what, on which terms: what `learn` was told. Calls under way keep theirs when it is forgotten.
struct Known {
  std::vector<Way> ways;      // their prices and payers are the same
  std::vector<Ref> accounts;  // those of `accounts_of`, as Python's integers
  std::vector<Quota> quotas;
  Ref all, org_id;  // the tuple of Terms that Python gave
  Ref gate;         // the listing's FairGate, nothing where its engines take any number of calls
  std::string slug, price_version_id;
  std::int64_t until_us = 0, context = 0, usual_tokens = 0;

  const Terms& terms() const { return *ways.front().terms; }
};

// What all calls share.
struct LaneState {
  explicit LaneState(PyObject* hooks_) : hooks(Ref::share(hooks_)) {}
  bool prepare();  // false with a Python error set
  void collect();  // takes note of charges that have been answered

  Ref hooks, books, loop, reserves, open_reserves;
  Ref charge, choose, resumed, seen;  // bound methods of `hooks`
  Limits limits;
  Places places;
  NumberSlot reserve_amount, reserve_out, reserve_calls, reserve_most;
  Wire* wire = nullptr;
  std::unique_ptr<ChargeWriter> charges;
  std::vector<Answered> settled;  // reused
  Counted counted;
  std::vector<Call*> running;  // in no order; each knows its place
  std::int64_t default_max_tokens = 0, slow_us = 0;
};

class Call final : public Reader {
 public:
  // Takes a request, or declines it without a trace.
  static bool begin(LaneState& lane, Client& client, const std::shared_ptr<const Known>& known, const Asked& asked,
                    View body, std::int64_t at_us, std::int64_t input_tokens, std::int64_t max_tokens);

  // The lane's end, while the wire is still there: gives back what was taken, whatever may be owed, and is gone.
  void abandon();

  void left();
  void slow(bool slow);
  void piece(View bytes) override;
  void landed(Answer&& answer) override;
  void broke(Failure failure) override;

  void charged(std::unique_ptr<Charge> charge, Outcome outcome);  // by the compiled writer
  void charged_by_python(PyObject* error);  // by Python's writer; null: booked

 private:
  Call(LaneState& lane, Client& client, std::shared_ptr<const Known> known) noexcept
      : lane_(lane), client_(&client), known_(std::move(known)) {}
  void begun();
  void over();
  bool promise();
  bool take_place(View body, View hint);
  bool enter_gate();
  void leave_gate(const char* how);
  void let_go();
  void give_back();
  void settle();
  void charge_in_python(const Charge& charge);
  void booked();
  void answer_whole();
  void end_stream();
  void give_up(const char* kind, bool sent = true);
  void finish();
  void append_answer_head(std::string& out, View content_type) const;
  std::string stream_head() const;
  PyObject* arguments_of(const char* kind, bool sent);

  LaneState& lane_;
  Client* client_;
  std::shared_ptr<const Known> known_;
  std::size_t place_among_ = 0;  // those that run
  const Way* way_ = nullptr;
  Flight* flight_ = nullptr;
  Ref waiting_;
  Taken taken_;
  Place place_;
  Ref gate_place_;
  std::string limit_headers_, id_, sha256_, why_ = "only";
  std::vector<std::pair<Ref, i64>> promised_;  // reserves, and how much of each
  std::uint64_t open_ = 0;
  Plan plan_;
  Bill bill_;
  Used used_;
  View raw_usage_;  // into `answer_` or the reader
  Answer answer_;
  StreamReader reader_;
  std::int64_t began_us_ = 0, held_at_us_ = 0, first_token_us_ = 0, answered_at_us_ = 0, ended_us_ = 0;
  std::int64_t input_tokens_ = 0, max_tokens_ = 0;
  bool streamed_ = false, include_usage_ = false, head_out_ = false, settling_ = false;
};

}  // namespace express
