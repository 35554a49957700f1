"""Give a call's money back to where it came from. Nobody gets cash for a voucher.

    the caller's own money first, up to what was paid ─► the wallet
    then voucher legs, the last one drawn first       ─► their grant, or its funders once it has lapsed
    a quota in tokens or requests last of all         ─► its units (see `quota_refunds`), no money
    the owner gives back its share, the platform its fee

What is reimbursed later shrinks with what the caller still pays. Where it had been paid out already, the
caller gets that much less, and the voucher gets it instead. Repeats under the same id change nothing; all
refunds of a call together never exceed what it cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict
from catalog.ground.marker import raise_marker
from marketplace.ledger.accounts import account_id, apply_now, open_account, take_control
from marketplace.ledger.chart import (
    CLEARING,
    CNY,
    FEE,
    FREE_COST,
    Code,
    Rule,
    owner_unsettled,
    reimburse_due,
    wallet,
)
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.reading import Paid, event, fees_of, legs_of, moved
from marketplace.ledger.tables import UsageEvent
from marketplace.vouchers.granting import MARKER
from marketplace.vouchers.parts import Back, Part, Priced, backwards, parts_of
from marketplace.vouchers.quota_refunds import Quota, quota_of, sink_of, units_entry
from marketplace.vouchers.returning import (
    LAPSED,
    note_return,
    return_entries,
    shift,
    shifts_of,
    used_before,
)
from marketplace.vouchers.tables import Claim, ClaimLine, Grant, Refund, RefundLeg


class Reversal(NamedTuple):
    """What a reimbursed leg gives back to its grant; `due_u` of it had been paid out already."""

    leg: Paid
    grant: Grant
    amount_u: int
    due_u: int


class FromQuota(NamedTuple):
    """What of a refund falls on the quota: `amount_u` micro-yuan of its worth, so many units."""

    quota: Quota
    amount_u: int
    units: int

    @property
    def low_u(self) -> int:
        """Where it begins within the call's cost."""
        return self.quota.low_u + self.quota.left_u - self.amount_u


class _Call(NamedTuple):
    event: UsageEvent
    priced: Priced
    parts: tuple[Part, ...]
    later: tuple[Paid, ...]
    returned: dict[int, int]
    grants: dict[int, Grant]
    quota: Quota | None


def refund(
    session: Session, refund_id: str, event_id: str, amount_u: int, reason: str, by: str, at_us: int
) -> Refund:
    """Give back `amount_u` of a call under the client's id; returns the refund.

    Raises `Conflict` when more would be refunded than was paid, or while a leg that it touches is being
    audited, or was disallowed by a funder.
    """
    take_control(session)
    known = session.get(Refund, refund_id)
    if known is not None:
        if (known.event_id, known.amount_u) == (event_id, amount_u):
            return known
        raise Conflict("This id refunded something else.", rule="refund.once")
    if amount_u <= 0 or not reason.strip():
        raise BadRequest("A refund is more than 0 and says why.", rule="refund.reason")
    call = _call(session, event_id)
    paid_u = sum(part.leg.amount for part in call.parts)
    left_u = paid_u - sum(call.returned.get(part.leg.leg, 0) for part in call.parts)
    if call.quota:
        paid_u, left_u = paid_u + call.quota.worth_u, left_u + call.quota.left_u
    if amount_u > left_u:
        raise Conflict(
            f"{left_u} micro-yuan of this call can still be refunded.",
            rule="refund.within_paid",
            details={"paid_u": paid_u, "refundable_u": left_u},
        )
    backs = backwards(call.parts, call.returned, amount_u)
    _check_claims(session, call, backs)
    reversals = _reversals(session, call, backs)
    free = _from_quota(call, amount_u - sum(back.amount_u for back in backs))
    owner_u = sum(call.priced.owner_u(b.low_u, b.low_u + b.amount_u) for b in backs)
    if free is not None:
        owner_u += call.priced.owner_u(free.low_u, free.low_u + free.amount_u)
    made = Refund(
        id=refund_id,
        event_id=event_id,
        owner_org=call.event.owner_org_id,
        amount_u=amount_u,
        reason=reason,
        by=by,
        at_us=at_us,
    )
    session.add(made)
    _book(session, made, call, backs, reversals, free, owner_u)
    raise_marker(session, MARKER)
    return made


def _from_quota(call: _Call, amount_u: int) -> FromQuota | None:
    """Return what falls on the quota: what no later payer gets back. A call that cost nothing used none."""
    if call.quota is None or not amount_u:
        return None
    return FromQuota(call.quota, amount_u, call.quota.units(amount_u))


def refunds_of(session: Session, event_id: str) -> Sequence[Refund]:
    """Return a call's refunds, oldest first."""
    query = select(Refund).where(Refund.event_id == event_id)
    return session.exec(query.order_by(col(Refund.at_us), col(Refund.id))).all()


def legs_returned(session: Session, refund_ids: Sequence[str]) -> Sequence[RefundLeg]:
    """Return what each leg got back."""
    query = select(RefundLeg).where(col(RefundLeg.refund_id).in_(refund_ids))
    return session.exec(query.order_by(col(RefundLeg.refund_id), col(RefundLeg.leg))).all()


def _call(session: Session, event_id: str) -> _Call:
    row = event(session, event_id)
    legs = legs_of(session, [event_id]).get(event_id, [])
    clearing = account_id(session, CLEARING)
    due = open_account(session, reimburse_due(row.org_id), Rule.PROJECTION)
    returned: dict[int, int] = {}
    before = legs_returned(session, [r.id for r in refunds_of(session, event_id)])
    for leg in before:
        returned[leg.leg] = returned.get(leg.leg, 0) + leg.amount_u
    accounts = [leg.account_id for leg in legs]
    grants = session.exec(select(Grant).where(col(Grant.account_id).in_(accounts))).all()
    parts = parts_of(row.cost_u, legs, clearing)
    paid_u = sum(part.leg.amount for part in parts)
    return _Call(
        event=row,
        priced=Priced(row.cost_u, fees_of(session, [event_id]).get(event_id, 0)),
        parts=parts,
        later=tuple(leg for leg in legs if leg.sink_id == due),
        returned=returned,
        grants={grant.account_id: grant for grant in grants if grant.unit == CNY},
        quota=quota_of(session, row, legs, paid_u, before),
    )


def _check_claims(session: Session, call: _Call, backs: Sequence[Back]) -> None:
    """Raise when a funder has refused a voucher leg that would get money back."""
    touched = {b.leg.leg for b in backs if b.leg.account_id in call.grants}
    for line, _ in _lines(session, call.event.id):
        if line.leg in touched and line.state in ("disallowed", "clawed_back"):
            raise Conflict(
                "A funder has refused to pay this part of the call: there is nothing to give back.",
                rule="refund.disallowed",
                remedy="Refund at most what the caller paid itself.",
                details={"claim": line.claim_id},
            )


def _lines(session: Session, event_id: str) -> list[tuple[ClaimLine, str]]:
    query = (
        select(ClaimLine, Claim.state)
        .join(Claim, col(Claim.id) == ClaimLine.claim_id)
        .where(ClaimLine.event_id == event_id, ClaimLine.state != "withdrawn")
    )
    return [(line, state) for line, state in session.exec(query)]


def _reversals(session: Session, call: _Call, backs: Sequence[Back]) -> list[Reversal]:
    """Return what the reimbursement of this call shrinks by: its ratio to the caller's own part stays."""
    own = [p for p in call.parts if p.leg.account_id not in call.grants]
    own_u = sum(part.leg.amount for part in own)
    before_u = sum(call.returned.get(part.leg.leg, 0) for part in own)
    now_u = sum(b.amount_u for b in backs if b.leg.account_id not in call.grants)
    lines = _lines(session, call.event.id) if call.later and now_u else []
    found = []
    repaid_left_u = now_u
    for leg in call.later if now_u else ():
        keep_u = leg.amount * (own_u - before_u - now_u) // own_u
        amount_u = leg.amount - call.returned.get(leg.leg, 0) - keep_u
        of_leg = [(line, state) for line, state in lines if line.leg == leg.leg]
        if any(line.state in ("disallowed", "clawed_back") for line, _ in of_leg):
            continue
        settled_u = sum(line.amount_u for line, _ in of_leg if not line.refund_id)
        # Once some funders have paid and others not, whose part shrinks would depend on who is late.
        if settled_u not in (0, leg.amount) or any(state != "settled" for _, state in of_leg):
            raise Conflict(
                "The reimbursement of this call is being claimed.",
                rule="refund.under_audit",
                remedy="Refund it once the claim is settled or withdrawn.",
                details={"claim": of_leg[0][0].claim_id},
            )
        settled_u -= _repaid(session, call.event.id, leg.leg)
        due_u = max(0, min(amount_u, settled_u))
        # Several legs round up each; together they never take more than the caller gets back.
        amount_u -= max(0, due_u - repaid_left_u)
        due_u = min(due_u, repaid_left_u)
        repaid_left_u -= due_u
        if amount_u > 0:
            found.append(Reversal(leg, call.grants[leg.account_id], amount_u, due_u))
    return found


def _repaid(session: Session, event_id: str, leg: int) -> int:
    ids = [r.id for r in refunds_of(session, event_id)]
    return sum(row.due_u for row in legs_returned(session, ids) if row.leg == leg)


def _book(
    session: Session,
    made: Refund,
    call: _Call,
    backs: Sequence[Back],
    reversals: Sequence[Reversal],
    free: FromQuota | None,
    owner_u: int,
) -> None:
    """Post it, then note what of each grant was used before (the zero entries tell)."""
    owner = open_account(session, owner_unsettled(call.event.owner_org_id), Rule.PROJECTION)
    due = open_account(session, reimburse_due(call.event.org_id), Rule.PROJECTION)
    own = open_account(session, wallet(call.event.org_id), Rule.DEBITS_WITHIN_CREDITS)
    fee_u = made.amount_u - owner_u
    sources = [(owner, owner_u), (account_id(session, FEE), fee_u)]
    repaid_u = sum(r.due_u for r in reversals)
    targets: list[tuple[int, int]] = []
    for back in backs:
        if back.leg.account_id in call.grants:
            targets.append((back.leg.account_id, back.amount_u))
        else:
            targets.append((own, back.amount_u - repaid_u))
            targets += [(r.leg.account_id, r.due_u) for r in reversals]
            repaid_u = 0
    if free is not None:
        targets.append((account_id(session, FREE_COST), free.amount_u))
    entries = _matched(sources, targets)
    entries += [
        Entry(Code.REFUND, due, r.leg.account_id, r.amount_u - r.due_u)
        for r in reversals
        if r.amount_u > r.due_u
    ]
    to_grants = [
        (b.leg, call.grants[b.leg.account_id], b.amount_u)
        for b in backs
        if b.leg.account_id in call.grants
    ]
    to_grants += [(r.leg, r.grant, r.amount_u) for r in reversals]
    clearing = account_id(session, CLEARING)
    # An entry of nothing: its debit total says in the journal how far the grant had been debited then.
    marks = [Entry(Code.REFUND, grant.account_id, clearing, 0) for _, grant, _ in to_grants]
    if free is not None and free.units:
        quota = free.quota
        to_grants.append((quota.leg, quota.grant, free.units))
        marks.append(Entry(Code.REFUND, quota.grant.account_id, sink_of(session, quota.grant), 0))
        entries.append(units_entry(session, quota, free.units))
    lapses: list[Entry] = []
    for _, grant, amount_u in to_grants:
        if _is_over(grant, made.at_us):
            lapses += return_entries(session, grant, amount_u, Code.LAPSE)
    tx = f"refund:{made.id}"
    apply_now(session, Post(tx, (*marks, *entries, *lapses), made.at_us))
    debits = {m.debit_id: m.debit_total or 0 for m in moved(session, tx)[: len(marks)]}
    _keep(session, made, call, backs, reversals)
    if free is not None:
        _keep_quota(session, made, call, free)
    for leg, grant, amount_u in to_grants:
        _note(session, made, leg, grant, amount_u, debits[grant.account_id], tx)
    session.flush()


def _keep(
    session: Session,
    made: Refund,
    call: _Call,
    backs: Sequence[Back],
    reversals: Sequence[Reversal],
) -> None:
    for back in backs:
        grant = call.grants.get(back.leg.account_id)
        row = RefundLeg(
            refund_id=made.id,
            leg=back.leg.leg,
            grant_id=grant.id if grant else "",
            amount_u=back.amount_u,
            covered_u=back.amount_u,
            low_u=back.low_u,
            due_u=0,
            from_total=0,
            owner_u=call.priced.owner_u(back.low_u, back.low_u + back.amount_u),
        )
        session.add(row)
    for reversal in reversals:
        row = RefundLeg(
            refund_id=made.id,
            leg=reversal.leg.leg,
            grant_id=reversal.grant.id,
            amount_u=reversal.amount_u,
            covered_u=0,
            low_u=0,
            due_u=reversal.due_u,
            from_total=0,
            owner_u=0,
        )
        session.add(row)
    session.flush()


def _keep_quota(session: Session, made: Refund, call: _Call, free: FromQuota) -> None:
    row = RefundLeg(
        refund_id=made.id,
        leg=free.quota.leg.leg,
        grant_id=free.quota.grant.id,
        amount_u=free.units,
        covered_u=free.amount_u,
        low_u=free.low_u,
        due_u=0,
        from_total=0,
        owner_u=call.priced.owner_u(free.low_u, free.low_u + free.amount_u),
    )
    session.add(row)
    session.flush()


def _note(
    session: Session, made: Refund, leg: Paid, grant: Grant, amount_u: int, debits: int, tx: str
) -> None:
    """Take the use back: from now on the grant's debits run ahead of it by this much more."""
    row = session.get_one(RefundLeg, (made.id, leg.leg))
    row.from_total = used_before(shifts_of(session, grant.id), debits)
    session.add(row)
    shift(session, grant.id, tx, "refund", debits, amount_u)
    grant.refunded += amount_u
    session.add(grant)
    if _is_over(grant, made.at_us):
        note_return(session, grant, tx, amount_u, debits + amount_u)
        grant.state = grant.state if grant.state != "active" else LAPSED


def _is_over(grant: Grant, at_us: int) -> bool:
    return grant.state != "active" or grant.expires_at_us <= at_us


def _matched(sources: Sequence[tuple[int, int]], targets: Sequence[tuple[int, int]]) -> list[Entry]:
    """Return movements that take each source's amount to the targets, in order; both sum to the same."""
    entries = []
    queue = [list(source) for source in sources if source[1]]
    for target, wanted in targets:
        left = wanted
        while left:
            account, have = queue[0]
            amount = min(left, have)
            entries.append(Entry(Code.REFUND, account, target, amount))
            left -= amount
            queue[0][1] -= amount
            if not queue[0][1]:
                queue.pop(0)
    return entries
