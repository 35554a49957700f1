"""The part of a refund that a quota counted in tokens or requests had paid: units back, and no money.

A quota is drawn before every voucher and the wallet, so it is given back last. Of n units that paid
`worth_u` of a call, a refund that reaches x micro-yuan into it brings ⌊n · x / worth⌋ back in all, a
request only with its last micro-yuan. What the platform had paid the owner for it goes back to where the
platform took it from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlmodel import Session, col, select

from marketplace.ledger.accounts import open_account
from marketplace.ledger.chart import CNY, Code, Rule, quota_used
from marketplace.ledger.holds import names_of
from marketplace.ledger.operations import Entry
from marketplace.ledger.reading import Paid, moved
from marketplace.ledger.tables import UsageEvent
from marketplace.vouchers.tables import Grant, RefundLeg


class Quota(NamedTuple):
    """A leg in tokens or requests: what it paid of the call's cost, from `low_u` on, and what came back."""

    leg: Paid
    grant: Grant
    worth_u: int
    low_u: int
    back_u: int
    back_units: int

    @property
    def left_u(self) -> int:
        """What of it can still be refunded, micro-yuan."""
        return self.worth_u - self.back_u

    def units(self, amount_u: int) -> int:
        """Return how many units a refund of `amount_u` more gives back; all that are left with the last."""
        if amount_u == self.left_u:
            return self.leg.amount - self.back_units
        return self.leg.amount * (self.back_u + amount_u) // self.worth_u - self.back_units


def quota_of(
    session: Session,
    call: UsageEvent,
    legs: Sequence[Paid],
    paid_u: int,
    returned: Collection[RefundLeg],
) -> Quota | None:
    """Return the quota that paid the call in its own unit, None without one: it pays all that is left.

    `paid_u` is what the legs in money paid, `returned` what earlier refunds gave back.
    """
    accounts = [leg.account_id for leg in legs]
    query = select(Grant).where(col(Grant.account_id).in_(accounts), Grant.unit != CNY)
    grants = {grant.account_id: grant for grant in session.exec(query).all()}
    leg = next((leg for leg in legs if leg.account_id in grants), None)
    if leg is None:
        return None
    before = [row for row in returned if row.leg == leg.leg]
    worth_u = sum(
        move.amount
        for tx in names_of(call.id)
        for move in moved(session, tx)
        if move.code == Code.FREE_COST
    )
    return Quota(
        leg,
        grants[leg.account_id],
        worth_u,
        call.cost_u - paid_u - worth_u,
        sum(row.covered_u for row in before),
        sum(row.amount_u for row in before),
    )


def sink_of(session: Session, grant: Grant) -> int:
    """Return the account that takes what is used of a quota's unit."""
    return open_account(session, quota_used(grant.unit), Rule.PROJECTION, grant.unit)


def units_entry(session: Session, quota: Quota, units: int) -> Entry:
    """Return the movement that gives units back to the grant that they came from."""
    sink = sink_of(session, quota.grant)
    return Entry(Code.REFUND, sink, quota.grant.account_id, units)
