// What a call costs and who pays: the price, the ladder, the plan and the bill, in integers.
//
// The rules are those of marketplace/prices/components.py, marketplace/vouchers/ladder.py and plan.py, and
// marketplace/gateway/money.py, to the micro-yuan; tests/marketplace/gateway/express hold them together.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "request.hpp"

struct _object;
typedef _object PyObject;

namespace express {

using i64 = std::int64_t;

struct Leg {  // marketplace.ledger.operations.Leg
  i64 account, amount, sink;
};

struct Entry {  // marketplace.ledger.operations.Entry
  i64 code, debit, credit, amount;
};

// One column of a usage event: a number or a text (UTF-8).
struct Value {
  bool is_text = false;
  i64 number = 0;
  std::string text;
};

struct Books {
  i64 clearing, overrun, rounding, free_cost, fee;
};

// Everything about who calls what that does not change from call to call. Made of Python's records, which it
// keeps alive.
class Terms {
 public:
  // `terms` is a marketplace.gateway.express.terms.Terms, `books` a marketplace.gateway.money.Books. Null, with
  // a Python error set, when it cannot be read; null without one when the lane must not serve these terms (an
  // amount or a rate beyond 64 bits, say).
  static std::unique_ptr<Terms> of(PyObject* terms, PyObject* books);
  ~Terms();
  struct Made;  // the inside: prices, steps, sinks, names of the event's columns
  Made& made() const { return *made_; }

 private:
  std::unique_ptr<Made> made_;
};

// One plan: `Plan` of marketplace/vouchers/plan.py, and the legs that a hold of it would have. A plan with a
// shortfall must not be promised; beyond what is reckoned with here (2^40 tokens, ¥922 million for one call) a
// plan is nothing but that.
struct Plan {
  i64 cost = 0, tokens = 0, self = 0, slack = 0, shortfall = 0;
  struct Draw {
    i64 account, amount, covered;
    int unit, kind, base, chain;
    i64 ratio_bp, cap_bp;
  };
  std::vector<Draw> draws;
  std::vector<std::pair<int, int>> skipped;  // (step, reason)
  std::vector<Leg> legs;                     // `Call.legs(plan)`: vouchers, wallet, caps
};

// The accounts that may pay, in the order of `Call.accounts` (vouchers, wallet, caps; each once). The lane
// says which of them have a reserve by setting bits of `open` (bit i for account i; at most 64 accounts, or
// Terms::of makes none).
const std::vector<i64>& accounts_of(const Terms& terms);

// `Call.draw(max_tokens, {account: 1 << 62 for those that are open})` and `Call.legs` of it. `at` as `Call.draw`
// has it (the call's beginning, or when the ladder was built if that is later); `began` is the call's beginning.
void draw(const Terms& terms, i64 input_tokens, i64 output_tokens, i64 began_us, std::uint64_t open, Plan& plan);

// `Reserves._saw_all`: whether accounts without a reserve make no difference to this plan. `empty_until` tells
// for each account of `accounts_of` until when it is known to be empty (0: not known).
bool saw_all(const Terms& terms, const Plan& plan, std::uint64_t open, const i64* empty_until_us, i64 began_us);

// What `Bill` knows, once a call has been settled.
struct Bill {
  i64 cost = 0, free = 0, voucher = 0, wallet = 0, counted = 0, rounding = 0, overrun = 0;
  std::vector<Leg> legs;       // what each account pays (`part.leg`)
  std::vector<Entry> entries;  // what moves beside it
  Used used;
};

// `Call.settle` and `Bill._entries`. False where `Call.bounded` would have to cut what the engine claims, and
// for a plan with a shortfall; what is in `bill` is then an older call's.
bool settle(const Terms& terms, const Plan& plan, const Used& used, i64 input_tokens, i64 max_tokens, i64 began_us,
            Bill& bill);

// What is told of one call in its usage event, beside terms and bill.
struct Told {
  View id, raw_usage, request_sha256, source, outcome, why;
  i64 began_us, first_token_us, ended_us;  // instants, but for the first token's: since the call began
  bool streamed;
};

// `Bill._usage`: the row of `usage_event`, in the order of USAGE_COLUMNS.
std::vector<Value> usage_row(const Terms& terms, const Bill& bill, const Told& told);

// `Bill.headers` as lines (`name: value\r\n`).
void append_cost_headers(const Bill& bill, std::string& out);

}  // namespace express
