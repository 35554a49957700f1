"""Where each payer's money lies within a call's cost, and what of it is the owner's share.

A call's cost is a line from 0 to `cost_u`. First what no leg paid (rounding, overrun, quotas counted in
tokens), then the legs in draw order. The owner's share of the first x micro-yuan is
`x - ⌊x * fee / cost⌋`, so any cutting of the line into parts gives the owner exactly `cost - fee` in
all, whichever part is settled, refunded or disallowed first. Pure integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from marketplace.ledger.reading import Paid


class Priced(NamedTuple):
    """What a call cost and the platform's fee in it, micro-yuan."""

    cost_u: int
    fee_u: int

    def owner_u(self, low_u: int, high_u: int) -> int:
        """Return the owner's share of the part from `low_u` to `high_u` of the cost."""
        return self._to(high_u) - self._to(low_u)

    def _to(self, reach_u: int) -> int:
        return reach_u - reach_u * self.fee_u // self.cost_u if self.cost_u else 0


class Part(NamedTuple):
    """A leg that paid the call, and where in its cost: `low_u` to `low_u + leg.amount`."""

    leg: Paid
    low_u: int

    @property
    def high_u(self) -> int:
        return self.low_u + self.leg.amount


def parts_of(cost_u: int, legs: Sequence[Paid], clearing_id: int) -> tuple[Part, ...]:
    """Return the legs that paid the call in money, in draw order, with their places."""
    paying = [leg for leg in legs if leg.sink_id == clearing_id]
    low_u = cost_u - sum(leg.amount for leg in paying)
    parts = []
    for leg in paying:
        parts.append(Part(leg, low_u))
        low_u += leg.amount
    return tuple(parts)


class Back(NamedTuple):
    """What one leg gets back, `amount_u`, and where that lies in the call's cost."""

    leg: Paid
    amount_u: int
    low_u: int


def backwards(parts: Sequence[Part], returned: dict[int, int], amount_u: int) -> list[Back]:
    """Return who gets a refund of `amount_u`: the last payer first, never more than it paid.

    `returned` is what each leg (by number) got back before. The wallet pays last, so the caller's own
    money comes back first, and vouchers after it in reverse draw order.
    """
    found = []
    for part in reversed(parts):
        before = returned.get(part.leg.leg, 0)
        back = min(amount_u, part.leg.amount - before)
        if back > 0:
            found.append(Back(part.leg, back, part.high_u - before - back))
            amount_u -= back
    return found


def pieces(low_u: int, amounts: Iterable[int]) -> list[tuple[int, int]]:
    """Return the places of consecutive amounts from `low_u` on: (low, high) each."""
    found = []
    for amount in amounts:
        found.append((low_u, low_u + amount))
        low_u += amount
    return found
