"""Prove what the ledger alone cannot know: that vouchers, claims and refunds agree with the journal.

Numbers are those of the invariants: 3 the pools' equation per programme and funder, 7 no cash-out,
8 one live claim line per leg and its exact amount, 13 each funder within a micro-yuan of its share.
Reads the whole journal; nothing is repaired.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from sqlmodel import Session, col, select

from catalog.ground.units import WHOLE_BP
from marketplace.ledger.chart import (
    CNY,
    Code,
    Kind,
    claimable,
    claimed,
    disallowed,
    receivable,
    settled,
)
from marketplace.ledger.tables import Account, Transfer, UsageEvent
from marketplace.vouchers.claimable import Item, books_of, refund_items, used_items
from marketplace.vouchers.pools import epochs_of, funders_of
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Claim, ClaimLine, Grant, Programme, Refund, RefundLeg

_POSTED = (int(Kind.POSTED), int(Kind.POST))
_EVER_US = 2**62


def prove(session: Session) -> list[str]:
    """Return what is off, in words; empty when everything agrees."""
    flows = _Flows(session)
    problems = list(_refunds(session))
    problems += [
        f"7 {code}: more was reimbursed than was due"
        for code in flows.ids
        if code.startswith("reimburse_due:") and flows.balance(code) < 0
    ]
    for made in session.exec(select(Programme)).all():
        problems += _grants(session, flows, made)
        if load(made.rules).rules.quota is None:
            problems += _programme(session, flows, made)
    return problems


class _Flows:
    """What each account gave and got, by code of the movement."""

    def __init__(self, session: Session) -> None:
        self.ids = {row.code: row.id or 0 for row in session.exec(select(Account))}
        self.debits: dict[tuple[int, int], int] = defaultdict(int)
        self.credits: dict[tuple[int, int], int] = defaultdict(int)
        query = select(Transfer).where(col(Transfer.kind).in_(_POSTED))
        for row in session.exec(query.execution_options(yield_per=1000)):
            self.debits[row.debit_id, row.code] += row.amount
            self.credits[row.credit_id, row.code] += row.amount

    def debited(self, account: int, *codes: Code) -> int:
        return sum(self.debits[account, int(code)] for code in codes)

    def credited(self, account: int, *codes: Code) -> int:
        return sum(self.credits[account, int(code)] for code in codes)

    def balance(self, code: str) -> int:
        """Credits less debits."""
        account = self.ids.get(code, 0)
        return sum(self.credits[account, int(c)] - self.debits[account, int(c)] for c in Code)


_BACK = (Code.LAPSE, Code.VOID_GRANT)
_OUT = (Code.ISSUE, Code.REDEEM_CODE)


def _grants(session: Session, flows: _Flows, made: Programme) -> Iterator[str]:
    """What the grant rows say is what the journal says."""
    for grant in session.exec(select(Grant).where(Grant.programme_id == made.id)):
        account = grant.account_id
        told = (grant.amount, grant.returned, grant.refunded)
        found = (
            flows.credited(account, *_OUT),
            flows.debited(account, *_BACK),
            flows.credited(account, Code.REFUND),
        )
        if told != found:
            yield f"{grant.id}: its row says {told}, the journal {found}"


def _programme(session: Session, flows: _Flows, made: Programme) -> Iterator[str]:
    books = [book for book in books_of(session, made.id).values() if book.grant.unit == CNY]
    items = [*used_items(session, made.id, 0, _EVER_US), *refund_items(session, made.id, _EVER_US)]
    per_grant: dict[tuple[str, str], int] = defaultdict(int)
    for item in items:
        per_grant[item.grant_id, item.funder_id] += item.amount_u
    issued: dict[str, int] = defaultdict(int)
    for book in books:
        grant = book.grant
        used_u = flows.debited(grant.account_id, Code.USE) - grant.refunded
        parts = book.split.drawn(used_u)
        backing = book.split.drawn(grant.amount - grant.returned)
        for funder_id, part, back in zip(book.split.funders, parts, backing, strict=True):
            issued[funder_id] += back
            if per_grant[grant.id, funder_id] != part:
                yield (
                    f"13 {grant.id} {funder_id}: its legs sum to "
                    f"{per_grant[grant.id, funder_id]}, its share of {used_u} is {part}"
                )
        epochs = epochs_of(session, grant)
        if len(epochs) == 1:
            for (_, share_bp), part in zip(epochs[0][1], parts, strict=True):
                if abs(part * WHOLE_BP - used_u * share_bp) >= WHOLE_BP:
                    yield f"13 {grant.id}: a funder is a micro-yuan or more off its share"
    for place in funders_of(session, made.id):
        yield from _funder(session, flows, made, place.funder_id, place.pool_account_id, issued)
    yield from _lines(session, items, made)


def _funder(
    session: Session,
    flows: _Flows,
    made: Programme,
    funder_id: str,
    pool: int,
    issued: dict[str, int],
) -> Iterator[str]:
    budget_u = flows.credited(pool, Code.FUND)
    left_u = sum(flows.credits[pool, int(c)] - flows.debits[pool, int(c)] for c in Code)
    if budget_u != left_u + issued[funder_id]:
        yield f"3 {made.code} {funder_id}: {budget_u} is not {left_u} + {issued[funder_id]}"
    told_u = flows.balance(claimable(made.id, funder_id))
    stages = (claimed, receivable, settled, disallowed)
    standing = [-flows.balance(stage(made.id, funder_id)) for stage in stages]
    if told_u != sum(standing):
        yield f"3 {made.code} {funder_id}: claimed in all {told_u}, in its stages {standing}"
    lines = session.exec(
        select(ClaimLine, Claim.state)
        .join(Claim, col(Claim.id) == ClaimLine.claim_id)
        .where(Claim.programme_id == made.id, ClaimLine.funder_id == funder_id)
        .where(ClaimLine.state != "withdrawn")
    ).all()
    by_stage = [0, 0, 0, 0]
    for line, state in lines:
        paid = {"audited": 1, "settled": 2}.get(state, 0)
        refused = paid and line.state in ("disallowed", "clawed_back")
        by_stage[3 if refused else paid] += line.amount_u
    if by_stage != standing:
        yield f"3 {made.code} {funder_id}: accounts {standing}, lines {by_stage}"


def _lines(session: Session, items: list[Item], made: Programme) -> Iterator[str]:
    exact = {(i.funder_id, i.event_id, i.leg, i.refund_id): i.amount_u for i in items}
    seen: set[tuple[str, str, int, str]] = set()
    rows = session.exec(
        select(ClaimLine)
        .join(Claim, col(Claim.id) == ClaimLine.claim_id)
        .where(Claim.programme_id == made.id, ClaimLine.state != "withdrawn")
    )
    for line in rows:
        key = (line.funder_id, line.event_id, line.leg, line.refund_id)
        if key in seen:
            yield f"8 {key}: in two live claim lines"
        seen.add(key)
        if exact.get(key) != line.amount_u:
            yield f"8 {key}: claimed {line.amount_u}, the journal gives {exact.get(key)}"


def _refunds(session: Session) -> Iterator[str]:
    back: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    query = select(Refund, RefundLeg).join(RefundLeg, col(RefundLeg.refund_id) == Refund.id)
    for refund, leg in session.exec(query):
        back[refund.event_id][0] += leg.covered_u
        if not leg.grant_id:
            back[refund.event_id][1] += leg.covered_u
    for event_id, (all_u, own_u) in back.items():
        event = session.get_one(UsageEvent, event_id)
        if all_u > event.cost_u:
            yield f"7 {event_id}: {all_u} refunded of {event.cost_u}"
        if own_u > event.wallet_u:
            yield f"7 {event_id}: {own_u} to the wallet, {event.wallet_u} came from it"
