"""Who pays how much of one request: made when it is admitted, kept with the hold, replayed at the end.

    Ladder.draw(estimate) ─► Plan ─ to_json ─► hold row ─ from_json ─► replay(plan, actual) ─► Settlement

The plan is the contract. Settling does not ask again which grant is eligible or what is left of it: it
runs the recorded legs on the actual cost, each bounded by what it holds. So a voucher that lapses, or a
programme that changes, during a call changes nothing about that call.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from catalog.ground.errors import BadRequest, LedgerCorrupt
from catalog.ground.units import WHOLE_BP

CNY, TOK, REQ = 0, 1, 2
UNIT_NAMES = ("CNY", "TOK", "REQ")
FREE, INSTANT, REIMBURSE = 0, 1, 2
RESIDUAL, LIST = 0, 1


class Leg(NamedTuple):
    """One draw on one grant.

    `amount` is in `unit` (micro-yuan, tokens or requests) and is what the grant's account holds or
    pays. `covered_u` is the part of the cost that it pays; 0 for a REIMBURSE leg, whose amount is owed
    to the claimant later. `cap_bp` is the total cap in force after this leg; `chain` is 0 or the number
    of its progressive scale.
    """

    grant_id: str
    account_id: int
    unit: int
    amount: int
    covered_u: int
    kind: int
    ratio_bp: int
    base: int
    cap_bp: int
    chain: int


class Plan(NamedTuple):
    """How a request of `cost_u` (and `tokens`) is paid.

    The wallet holds `self_u + slack_u`. `shortfall_u` > 0 means that nobody pays that much: the plan
    must not be held, its legs only explain. `skipped` names (step, reason) of the ladder's steps that
    did not pay; `Ladder.explain` puts them into words. Always: Σ covered_u + self_u = cost_u.
    """

    cost_u: int
    tokens: int
    legs: tuple[Leg, ...]
    wallet_account_id: int | None
    self_u: int
    slack_u: int
    shortfall_u: int
    skipped: tuple[tuple[int, int], ...] = ()

    @property
    def covered_u(self) -> int:
        """What grants and quotas pay, micro-yuan."""
        return self.cost_u - self.self_u

    @property
    def wallet_hold_u(self) -> int:
        """What to hold on the wallet, micro-yuan."""
        return self.self_u + self.slack_u

    def to_json(self) -> str:
        """Return the plan for the hold row (about 60 bytes and 60 a leg); `skipped` is left out."""
        kept = [1, self.cost_u, self.tokens, self.wallet_account_id, self.self_u, self.slack_u]
        return _encoder.encode([*kept, self.legs]).decode()

    @staticmethod
    def from_json(text: str) -> Plan:
        """Return the plan that `to_json` wrote; LedgerCorrupt if it is not one."""
        try:
            version, cost_u, tokens, wallet, self_u, slack_u, legs = _decoder.decode(text)
        except msgspec.DecodeError as error:
            raise LedgerCorrupt(
                f"A hold's plan cannot be read: {error}.", rule="plan.format"
            ) from None
        plan = Plan(cost_u, tokens, tuple(legs), wallet, self_u, slack_u, 0)
        if version != 1 or sum(leg.covered_u for leg in legs) + self_u != cost_u:
            raise LedgerCorrupt("A hold's plan does not add up to its cost.", rule="plan.sum")
        return plan


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[int, int, int, int | None, int, int, list[Leg]])


class Settlement(NamedTuple):
    """A plan run on the actual cost.

    `legs` are those of the plan, in order, with the amounts to post (0 = release it whole). `self_u` is
    posted from the wallet's hold. `rounding_u` (at most the number of legs) and `overrun_u` (actual
    beyond the estimate) are the platform's. Σ covered_u + self_u + rounding_u + overrun_u = actual cost.
    """

    cost_u: int
    legs: tuple[Leg, ...]
    self_u: int
    rounding_u: int
    overrun_u: int


def replay(plan: Plan, actual_cost_u: int, tokens: int | None = None) -> Settlement:
    """Return what to post for a request that was admitted with `plan`.

    Every amount is at most its hold. `tokens` are the actual ones (default: the estimate's), for legs
    that pay in tokens. With residual bases and no caps, `rounding_u` is 0, proven in the tests. An
    actual cost above the plan's is charged at the plan's; the rest is `overrun_u`.
    """
    if actual_cost_u < 0:
        raise BadRequest("A cost cannot be negative.", rule="plan.cost")
    if plan.shortfall_u:
        raise LedgerCorrupt("A plan with a shortfall was held.", rule="plan.shortfall")
    cost_u = min(actual_cost_u, plan.cost_u)
    spent = plan.tokens if tokens is None else tokens
    left = spend = cost_u
    repaid = chain = chain_base = 0
    legs = []
    for name, account, unit, held, _, kind, ratio, base_kind, cap, own_chain in plan.legs:
        amount = covered = 0
        if left and unit == CNY:
            base = left if base_kind == RESIDUAL else spend
            if own_chain and own_chain == chain:
                base = chain_base
            want = base * ratio // WHOLE_BP
            room = left if cap == WHOLE_BP else spend * cap // WHOLE_BP - spend + left
            amount = covered = max(0, min(want, held, left, room))
            if own_chain:
                chain, chain_base = own_chain, rest_of_bracket(base, want, held, ratio)
        elif left:
            amount, covered = (1 if unit == REQ else min(spent, held)), left
        left -= covered
        if kind == REIMBURSE:
            repaid += covered
            covered = 0
        elif kind == FREE:
            spend = left
        legs.append(
            Leg(name, account, unit, amount, covered, kind, ratio, base_kind, cap, own_chain)
        )
    self_u = left + repaid
    paid_u = min(self_u, plan.wallet_hold_u)
    return Settlement(actual_cost_u, tuple(legs), paid_u, self_u - paid_u, actual_cost_u - cost_u)


def rest_of_bracket(base: int, want: int, have: int, ratio_bp: int) -> int:
    """Return the part of the base that reaches the next bracket of a progressive scale.

    None of it does while this bracket's grant (`have`) still pays all it should (`want`).
    """
    if want <= have:
        return 0
    return max(0, base - -(-have * WHOLE_BP // ratio_bp))
