"""Giving back: a refund is the same plan settled again for less, with what was paid as its bounds.

So each source gets back what it would not have paid, had the call cost less from the start: a voucher
of 30 % gets 30 % of a refund, and of the rest of the cost it still pays 30 % and not more, which giving
the caller's own money back first would break. Nobody gets more than was paid (no cash-out), a quota gets
its request back only when the whole call is refunded, and what is reimbursed later shrinks with it.
"""

from __future__ import annotations

from typing import NamedTuple

from catalog.ground.errors import BadRequest
from marketplace.vouchers.plan import Leg, Plan, Settlement, replay


class Refund(NamedTuple):
    """What goes back where: `legs` in the order of the plan, amounts in their own unit.

    `rounding_u` is given back by the platform's rounding account, or borne by it when negative. `after`
    is what the call has cost since then: give it to `refund` for the next one.
    """

    legs: tuple[Leg, ...]
    self_u: int
    rounding_u: int
    overrun_u: int
    after: Settlement


def refund(plan: Plan, paid: Settlement, refund_u: int, tokens: int | None = None) -> Refund:
    """Return what to give back of a settled call so that it costs `refund_u` micro-yuan less.

    `paid` is the settlement (or `after` of the last refund); `tokens` the tokens that still count.
    Σ covered_u + self_u + rounding_u + overrun_u = refund_u.
    """
    if not 0 <= refund_u <= paid.cost_u:
        raise BadRequest(
            f"A refund lies between 0 and the {paid.cost_u} micro-yuan that the call still costs.",
            rule="refund.amount",
            param="refund_u",
        )
    bounds = plan._replace(
        cost_u=paid.cost_u - paid.overrun_u,
        legs=paid.legs,
        self_u=paid.self_u,
        slack_u=0,
        tokens=plan.tokens if tokens is None else tokens,
    )
    after = replay(bounds, paid.cost_u - refund_u)
    back = tuple(
        old._replace(amount=old.amount - new.amount, covered_u=old.covered_u - new.covered_u)
        for old, new in zip(paid.legs, after.legs, strict=True)
    )
    return Refund(
        legs=back,
        self_u=paid.self_u - after.self_u,
        rounding_u=paid.rounding_u - after.rounding_u,
        overrun_u=paid.overrun_u - after.overrun_u,
        after=after,
    )
