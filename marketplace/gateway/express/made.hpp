// The inside of `Terms`: what Python's records say, as plain integers that fit every product made of them.
#pragma once
#include <cstdint>
#include <vector>

#include "pay.hpp"
#include "python.hpp"

namespace express {

namespace rules {

constexpr i64 kWholeBp = 10'000;
constexpr i64 kRateTokens = 1'000'000;
constexpr i64 kMostRate = 1'000'000'000'000;  // MOST_U of components.py
// The most that a call may cost here: a share of it in basis points still fits 63 bits. It is ¥922 million.
constexpr i64 kMostCost = INT64_MAX / kWholeBp;
constexpr i64 kMostTokens = i64{1} << 40;
constexpr int kMostChain = 63;  // the number of a progressive scale: they are bits of a word

enum Unit : int { kCny, kTok, kReq };
enum Kind : int { kFree, kInstant, kReimburse };
enum Base : int { kResidual, kList };
enum Reason : int { kNotInForce = 1, kExcluded, kExhausted, kTooFewTokens, kCapped };  // of `Plan.skipped`

struct Rates {  // of the price itself (over = -1), or of one of its tiers; micro-yuan per million tokens
  i64 over, input, output, cache_read, cache_write, reasoning;
  i64 dearest_input, dearest_output;
};

struct Window {  // minutes of the Beijing day, the end excluded
  int begin, end;
  i64 ratio_bp;
};

struct Step {
  i64 account, sink, starts_us, ends_us, bit, takes, ratio_bp, cap_bp;
  int unit, kind, base, chain;
  int index;  // of the account among those that may pay
};

}  // namespace rules

struct Terms::Made {
  std::vector<rules::Rates> rates;  // never empty: the price, then its tiers
  std::vector<rules::Window> windows;
  i64 request_u = 0;

  std::vector<rules::Step> steps;
  bool needs_slack = false;
  i64 wallet = 0, built_at_us = 0;
  int wallet_index = 0;

  std::vector<i64> accounts, caps;
  i64 caps_sink = 0;

  Books books{};
  i64 owner = 0, fee_bp = 0;
  View org_id, key_id, project_id, slug, release, endpoint, owner_org, price_version, prices;
  std::vector<Ref> kept;  // the Python strings that the views look into
};

}  // namespace express
