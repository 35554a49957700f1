// The rules, in integers. Names and order are those of the Python that they must equal.
#include "made.hpp"

#include <algorithm>

namespace express {

using namespace rules;

namespace {

using Wide = __int128;  // tokens times rates

constexpr i64 kMinuteUs = 60'000'000;
constexpr i64 kDayMinutes = 24 * 60, kBeijingMinutes = 8 * 60;
constexpr i64 kPlenty = i64{1} << 62;  // what an account with a reserve is taken to have

enum Code : i64 { kAccrue = 5, kFee = 6, kOverrun = 7, kRounding = 8, kFreeCost = 9 };  // of chart.py

// --- the price: marketplace/prices/components.py

i64 ratio_at(const Terms::Made& made, i64 at_us) {
  i64 minute = at_us / kMinuteUs - (at_us % kMinuteUs < 0);  // rounds down before 1970 too
  minute = (minute % kDayMinutes + kDayMinutes + kBeijingMinutes) % kDayMinutes;
  for (const Window& w : made.windows) {
    const bool within = w.begin <= minute && minute < w.end;
    if (within || (w.end <= w.begin && (minute >= w.begin || minute < w.end))) return w.ratio_bp;
  }
  return kWholeBp;
}

// Rounds half up, once. False where the cost is more than is reckoned with here.
bool rounded(const Terms::Made& made, Wide numerator, i64 at_us, i64& cost) {
  numerator += static_cast<Wide>(made.request_u) * kRateTokens;
  i64 scale = kRateTokens;
  if (!made.windows.empty()) {
    numerator *= ratio_at(made, at_us);
    scale *= kWholeBp;
  }
  numerator += scale / 2;
  // Nearly always it fits 64 bits, whose division is many times faster.
  const Wide whole = numerator <= INT64_MAX ? static_cast<i64>(numerator) / scale : numerator / scale;
  if (whole > kMostCost) return false;
  cost = static_cast<i64>(whole);
  return true;
}

bool estimate(const Terms::Made& made, i64 input_tokens, i64 output_tokens, i64 at_us, i64& cost) {
  Wide dearest = 0;
  // A shorter input may fall into a dearer tier, so every tier that it can reach is looked at.
  for (std::size_t i = 0; i < made.rates.size() && made.rates[i].over < input_tokens; ++i) {
    const Rates& rates = made.rates[i];
    const bool last = i + 1 == made.rates.size();
    const i64 top = last ? input_tokens : std::min(made.rates[i + 1].over, input_tokens);
    const Wide most =
        static_cast<Wide>(top) * rates.dearest_input + static_cast<Wide>(output_tokens) * rates.dearest_output;
    dearest = std::max(dearest, most);
  }
  return rounded(made, dearest, at_us, cost);
}

bool cost_of(const Terms::Made& made, const Used& used, i64 at_us, i64& cost) {
  const i64 input_tokens = used.input();
  const Rates* rates = &made.rates[0];
  for (const Rates& tier : made.rates) {
    if (input_tokens <= tier.over) break;  // never the first: it is over -1
    rates = &tier;
  }
  const Wide numerator =
      static_cast<Wide>(used.input_uncached) * rates->input + static_cast<Wide>(used.cache_read) * rates->cache_read +
      static_cast<Wide>(used.cache_write) * rates->cache_write + static_cast<Wide>(used.output) * rates->output +
      static_cast<Wide>(used.reasoning) * rates->reasoning;
  return rounded(made, numerator, at_us, cost);
}

bool countable(i64 tokens) { return 0 <= tokens && tokens <= kMostTokens; }

bool is_open(std::uint64_t open, int index) { return (open >> index & 1) != 0; }

// --- the plan: marketplace/vouchers/ladder.py and plan.py

i64 share(i64 amount, i64 ratio_bp) { return amount * ratio_bp / kWholeBp; }  // amount <= kMostCost

// `rest_of_bracket`: the part of the base that reaches the next bracket of a progressive scale.
i64 rest_of_bracket(i64 base, i64 want, i64 have, i64 ratio_bp) {
  if (want <= have) return 0;
  const i64 whole = have * kWholeBp;  // have < want <= kMostCost, and a ratio of 0 wants nothing
  return std::max<i64>(0, base - whole / ratio_bp - (whole % ratio_bp != 0));
}

// A draw down the ladder while it is being made. What is open has plenty, so that no step is cut short by what
// is there, a quota of tokens is never too small, and a bracket of a progressive scale always pays all of it.
class Drawing {
 public:
  Drawing(const Terms::Made& made, Plan& plan) : made_(made), plan_(plan), left_(plan.cost), spend_(plan.cost) {}

  void run(i64 at_us, std::uint64_t open) {
    for (std::size_t i = 0; i < made_.steps.size() && left_ > 0; ++i) {
      const Step& step = made_.steps[i];
      const int why = refusal(step, at_us, open);
      if (why != 0) {
        plan_.skipped.emplace_back(static_cast<int>(i), why);
      } else if (step.unit == kCny) {
        pay(step, static_cast<int>(i));
      } else {
        take(step, step.unit == kReq ? 1 : plan_.tokens, left_, cap_bp_);
      }
    }
    plan_.self = left_ + repaid_;
  }

 private:
  int refusal(const Step& step, i64 at_us, std::uint64_t open) const {
    if (at_us < step.starts_us || at_us >= step.ends_us) return kNotInForce;
    if ((step.bit & taken_) != 0 && (step.chain == 0 || step.chain != chain_)) return kExcluded;
    return is_open(open, step.index) ? 0 : kExhausted;
  }

  void pay(const Step& step, int index) {
    i64 base = step.base == kResidual ? left_ : spend_;
    // The bracket before has paid all that it should, or added nothing: none of the base is left for this one.
    if (step.chain != 0 && (step.chain == chain_ || (ended_ >> step.chain & 1) != 0)) base = 0;
    i64 amount = std::min(share(base, step.ratio_bp), left_);
    const i64 cap = std::min(step.cap_bp, cap_bp_);
    if (cap < kWholeBp) amount = std::min(amount, share(spend_, cap) - spend_ + left_);
    if (amount <= 0) {
      if (step.chain != 0) ended_ |= std::uint64_t{1} << step.chain;
      plan_.skipped.emplace_back(index, kCapped);
      return;
    }
    if (step.chain != 0) chain_ = step.chain;
    cap_bp_ = cap;
    take(step, amount, amount, cap);
  }

  void take(const Step& step, i64 amount, i64 covered, i64 cap) {
    taken_ |= step.takes;
    left_ -= covered;
    if (step.kind == kReimburse) {
      repaid_ += covered;
      covered = 0;
    } else if (step.kind == kFree) {
      spend_ = left_;
    }
    plan_.draws.push_back(
        {step.account, amount, covered, step.unit, step.kind, step.base, step.chain, step.ratio_bp, cap});
    plan_.legs.push_back({step.account, amount, step.sink});
  }

  const Terms::Made& made_;
  Plan& plan_;
  i64 left_, spend_;
  i64 repaid_ = 0, taken_ = 0, cap_bp_ = kWholeBp;
  std::uint64_t ended_ = 0;  // scales, by the bit of their number
  int chain_ = 0;
};

i64 spent_of(const Plan& plan) {
  i64 spent = plan.self + plan.slack;
  for (const Plan::Draw& draw : plan.draws) {
    if (draw.kind != kFree) spent += draw.covered;
  }
  return spent;
}

// `replay`: a plan's draws run on the actual cost. Every amount is at most what is held for it.
class Replay {
 public:
  Replay(i64 cost, i64 tokens) : left_(cost), spend_(cost), tokens_(tokens) {}

  // The amount that the draw posts; `covered()` then tells what it covers of the cost.
  i64 run(const Plan::Draw& draw) {
    i64 amount = 0;
    covered_ = 0;
    if (left_ != 0 && draw.unit == kCny) {
      amount = covered_ = pay(draw);
    } else if (left_ != 0) {
      amount = draw.unit == kReq ? 1 : std::min(tokens_, draw.amount);
      covered_ = left_;
    }
    left_ -= covered_;
    if (draw.kind == kReimburse) {
      repaid_ += covered_;
      covered_ = 0;
    } else if (draw.kind == kFree) {
      spend_ = left_;
    }
    return amount;
  }

  i64 covered() const { return covered_; }
  i64 self() const { return left_ + repaid_; }

 private:
  i64 pay(const Plan::Draw& draw) {
    i64 base = draw.base == kResidual ? left_ : spend_;
    if (draw.chain != 0 && draw.chain == chain_) base = chain_base_;
    const i64 want = share(base, draw.ratio_bp);
    const i64 room = draw.cap_bp == kWholeBp ? left_ : share(spend_, draw.cap_bp) - spend_ + left_;
    if (draw.chain != 0) {
      chain_ = draw.chain;
      chain_base_ = rest_of_bracket(base, want, draw.amount, draw.ratio_bp);
    }
    return std::max<i64>(0, std::min({want, draw.amount, left_, room}));
  }

  i64 left_, spend_;
  const i64 tokens_;
  i64 covered_ = 0, repaid_ = 0, chain_base_ = 0;
  int chain_ = 0;
};

// --- the bill: marketplace/gateway/money.py

// The legs of vouchers and wallet, and what each kind of payer covers (`Bill.add_up`); what counts against the
// key's caps is returned.
i64 add_legs(const Terms::Made& made, const Plan& plan, Replay& replay, Bill& bill) {
  const i64 clearing = made.books.clearing;
  i64 spent = 0;
  for (std::size_t i = 0; i < plan.draws.size(); ++i) {
    const Plan::Draw& draw = plan.draws[i];
    const i64 amount = replay.run(draw), sink = plan.legs[i].sink;
    const i64 counted = draw.unit == kCny ? 0 : replay.covered();
    const i64 money = sink == clearing ? amount : 0;
    bill.legs.push_back({draw.account, amount, sink});
    bill.counted += counted;
    (draw.kind == kFree ? bill.free : bill.voucher) += counted + money;
    if (draw.kind != kFree) spent += money;
  }
  const i64 held = plan.self + plan.slack;
  const i64 paid = std::min(replay.self(), held);
  bill.rounding = replay.self() - paid;
  if (held != 0) {
    bill.legs.push_back({made.wallet, paid, clearing});
    bill.wallet = paid;
    spent += paid;
  }
  return spent;
}

void add_entries(const Terms::Made& made, Bill& bill) {
  const Books& books = made.books;
  const i64 fee = share(bill.cost, made.fee_bp);
  const Entry entries[] = {
      {kAccrue, books.clearing, made.owner, bill.cost - fee},
      {kFee, books.clearing, books.fee, fee},
      {kFreeCost, books.free_cost, books.clearing, bill.counted},
      {kRounding, books.rounding, books.clearing, bill.rounding},
      {kOverrun, books.overrun, books.clearing, bill.overrun},
  };
  for (const Entry& entry : entries) {
    if (entry.amount != 0) bill.entries.push_back(entry);
  }
}

class Row {
 public:
  explicit Row(std::size_t columns) { values.reserve(columns); }
  void text(View text) { values.push_back({true, 0, std::string(text)}); }
  void number(i64 number) { values.push_back({false, number, std::string()}); }
  std::vector<Value> values;
};

std::string route(View endpoint, View why) {
  std::string text;
  text.reserve(endpoint.size() + why.size() + 32);
  // No escapes: `Terms::of` takes no endpoint that needs them, and `why` is one of the router's own words.
  text.append("{\"endpoint\":\"").append(endpoint).append("\",\"why\":\"").append(why).append("\"}");
  return text;
}

void append_header(std::string& out, View name, i64 value) {
  out.append(name).append(": ");
  append_number(out, value);
  out.append("\r\n");
}

}  // namespace

const std::vector<i64>& accounts_of(const Terms& terms) { return terms.made().accounts; }

void draw(const Terms& terms, i64 input_tokens, i64 output_tokens, i64 began_us, std::uint64_t open, Plan& plan) {
  const Terms::Made& made = terms.made();
  plan.cost = plan.tokens = plan.self = plan.slack = 0;
  plan.shortfall = INT64_MAX;
  plan.draws.clear();
  plan.skipped.clear();
  plan.legs.clear();
  if (!countable(input_tokens) || !countable(output_tokens)) return;
  if (!estimate(made, input_tokens, output_tokens, began_us, plan.cost)) return;
  plan.tokens = input_tokens + output_tokens;
  Drawing(made, plan).run(std::max(began_us, made.built_at_us), open);

  const i64 have = is_open(open, made.wallet_index) ? kPlenty : 0;
  plan.shortfall = std::max<i64>(0, plan.self - have);
  if (made.needs_slack && !plan.draws.empty() && plan.shortfall == 0) {
    plan.slack = std::min(static_cast<i64>(plan.draws.size()), have - plan.self);
  }
  if (plan.self + plan.slack != 0) {
    plan.legs.push_back({made.wallet, plan.self + plan.slack, made.books.clearing});
  }
  if (!made.caps.empty()) {
    const i64 spent = spent_of(plan);
    for (const i64 account : made.caps) plan.legs.push_back({account, spent, made.caps_sink});
  }
}

bool saw_all(const Terms& terms, const Plan& plan, std::uint64_t open, const i64* empty_until_us, i64 began_us) {
  const Terms::Made& made = terms.made();
  for (const auto& [step, why] : plan.skipped) {
    if (why == kExhausted && empty_until_us[made.steps[static_cast<std::size_t>(step)].index] < began_us) return false;
  }
  return !made.needs_slack || plan.draws.empty() || is_open(open, made.wallet_index);
}

bool settle(const Terms& terms, const Plan& plan, const Used& used, i64 input_tokens, i64 max_tokens, i64 began_us,
            Bill& bill) {
  const Terms::Made& made = terms.made();
  for (const i64 tokens : {used.input_uncached, used.cache_read, used.cache_write, used.output, used.reasoning}) {
    if (!countable(tokens)) return false;
  }
  if (used.input() > input_tokens || used.output + used.reasoning > max_tokens) return false;
  i64 cost = 0;
  if (plan.shortfall != 0 || !cost_of(made, used, began_us, cost)) return false;

  bill.cost = cost;
  bill.free = bill.voucher = bill.wallet = bill.counted = bill.rounding = 0;
  bill.legs.clear();
  bill.entries.clear();
  bill.used = used;
  const i64 within = std::min(cost, plan.cost);
  bill.overrun = cost - within;
  Replay replay(within, used.total());
  const i64 spent = add_legs(made, plan, replay, bill);
  for (const i64 account : made.caps) bill.legs.push_back({account, spent, made.caps_sink});
  add_entries(made, bill);
  return true;
}

std::vector<Value> usage_row(const Terms& terms, const Bill& bill, const Told& told) {
  const Terms::Made& made = terms.made();
  Row row(30);
  for (const View text : {told.id, made.org_id, made.key_id, made.project_id, made.slug, made.release, made.endpoint,
                          made.owner_org, made.price_version, made.prices}) {
    row.text(text);
  }
  for (const i64 number : {told.began_us, told.first_token_us, told.ended_us, bill.used.input_uncached,
                           bill.used.cache_read, bill.used.cache_write, bill.used.output, bill.used.reasoning}) {
    row.number(number);
  }
  row.text(told.source);
  row.text(told.outcome);
  for (const i64 number :
       {i64{told.streamed}, bill.cost, bill.cost, bill.wallet, bill.voucher, bill.free, bill.rounding + bill.overrun}) {
    row.number(number);
  }
  row.text(told.raw_usage);
  row.values.push_back({true, 0, route(made.endpoint, told.why)});
  row.text(told.request_sha256);
  return std::move(row.values);
}

void append_cost_headers(const Bill& bill, std::string& out) {
  append_header(out, "x-tm-cost-u", bill.cost);
  append_header(out, "x-tm-voucher-u", bill.voucher);
  append_header(out, "x-tm-free-u", bill.free);
  append_header(out, "x-tm-wallet-u", bill.wallet);
}

}  // namespace express
