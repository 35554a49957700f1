"""Give back what nobody will use: a grant that has expired (lapse) or is taken away (void).

What is on hold stays until its call has ended; the next run takes what that leaves. The last letters of a
grant go back to the funders that backed them (see `pools`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, func, or_, select

from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.marker import raise_marker
from marketplace.ledger.accounts import apply_now, open_account, take_control
from marketplace.ledger.chart import CNY, Code, Rule, funder_outside, quota_used
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.reading import moved, totals
from marketplace.ledger.tables import Account
from marketplace.vouchers.granting import MARKER
from marketplace.vouchers.pools import funders_of, split_of
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import CapUse, Grant, GrantShift, Programme

LAPSED, VOID = "lapsed", "void"
_AT_ONCE = 200


def lapse(session: Session, at_us: int, limit: int = _AT_ONCE) -> int:
    """Return what expired grants still hold to their pools; returns how many grants were touched.

    At most `limit` of them, each once: call it again until it returns 0.
    """
    take_control(session)
    expired = or_(
        (col(Grant.state) == "active") & (col(Grant.expires_at_us) <= at_us),
        col(Grant.state).in_((LAPSED, VOID))
        & (Account.cr_posted - Account.dr_posted - Account.dr_pending > 0),
    )
    query = select(Grant).join(Account, col(Account.id) == Grant.account_id).where(expired)
    grants = session.exec(query.order_by(col(Grant.expires_at_us)).limit(limit)).all()
    for grant in grants:
        give_back(session, grant, Code.VOID_GRANT if grant.state == VOID else Code.LAPSE, at_us)
        grant.state = VOID if grant.state == VOID else LAPSED
        session.add(grant)
    if grants:
        raise_marker(session, MARKER)
    return len(grants)


def void(session: Session, grant_id: str, reason: str, at_us: int) -> Grant:
    """Take a grant away: it pays nothing from now on, and its rest goes back. Twice is once."""
    take_control(session)
    grant = session.get(Grant, grant_id)
    if grant is None:
        raise NotFound(f"There is no voucher {grant_id!r}.", rule="grant.exists")
    if grant.state != "active":
        return grant
    if not reason.strip():
        raise BadRequest("Say why the voucher is taken away.", rule="grant.reason", param="reason")
    give_back(session, grant, Code.VOID_GRANT, at_us)
    grant.state = VOID
    session.add(grant)
    session.flush()
    raise_marker(session, MARKER)
    return grant


def give_back(session: Session, grant: Grant, why: Code, at_us: int) -> int:
    """Move what the grant does not hold for a call to where it came from; returns the amount."""
    lock_account(session, grant.account_id)
    left = totals(session, [grant.account_id])[grant.account_id].available
    if left <= 0:
        return 0
    tx = f"{why.name.lower()}:{grant.id}:{grant.returned}"
    entries = return_entries(session, grant, left, why)
    apply_now(session, Post(tx, tuple(entries), at_us))
    after = max(m.debit_total or 0 for m in moved(session, tx))
    note_return(session, grant, tx, left, after)
    return left


def return_entries(session: Session, grant: Grant, amount: int, why: Code) -> list[Entry]:
    """Return the movements of the grant's last `amount` back to its funders."""
    if grant.unit != CNY:
        sink = open_account(session, quota_used(grant.unit), Rule.PROJECTION, grant.unit)
        return [Entry(why, grant.account_id, sink, amount)]
    split = split_of(session, grant)
    issued = grant.amount - grant.returned
    parts = zip(split.funders, split.between(issued - amount, issued), strict=True)
    pools = {p.funder_id: p.pool_account_id for p in funders_of(session, grant.programme_id)}
    quota = load(session.get_one(Programme, grant.programme_id).rules).rules.quota
    return [
        Entry(
            why,
            grant.account_id,
            open_account(session, funder_outside(funder_id), Rule.PROJECTION)
            if quota
            else pools[funder_id],
            part,
        )
        for funder_id, part in parts
        if part
    ]


def note_return(session: Session, grant: Grant, tx: str, amount: int, debit_total: int) -> None:
    """Record that the grant's debits now run ahead of its use, and give the caps their room back."""
    shift(session, grant.id, tx, "return", debit_total, amount)
    grant.returned += amount
    session.add(grant)
    _return_caps(session, grant, amount)
    session.flush()


def _return_caps(session: Session, grant: Grant, amount: int) -> None:
    """Give each cap that the grant counts against the same part of what it counts, rounded down."""
    rows: dict[str, list[CapUse]] = {}
    for row in session.exec(select(CapUse).where(CapUse.grant_id == grant.id)):
        rows.setdefault(row.key, []).append(row)
    for of_key in rows.values():
        left = amount * sum(row.issued_u for row in of_key) // grant.amount
        for row in of_key:
            part = min(left, row.issued_u - row.returned_u)
            row.returned_u += part
            left -= part
            session.add(row)


def shift(session: Session, grant_id: str, tx: str, kind: str, at_total: int, amount: int) -> None:
    """Add a shift (see `tables.GrantShift`)."""
    query = select(func.count()).where(GrantShift.grant_id == grant_id)
    number = int(session.exec(query).one())
    row = GrantShift(grant_id=grant_id, n=number, tx=tx, kind=kind, at_total=at_total, shift=amount)
    session.add(row)
    session.flush()


def shifts_of(session: Session, grant_id: str) -> Sequence[GrantShift]:
    """Return a grant's shifts in the order in which they happened."""
    query = select(GrantShift).where(GrantShift.grant_id == grant_id)
    return session.exec(query.order_by(col(GrantShift.n))).all()


def used_before(shifts: Sequence[GrantShift], debits_u: int) -> int:
    """Return what had been used of a grant when its posted debits were `debits_u`."""
    return debits_u - sum(row.shift for row in shifts if row.at_total <= debits_u)


def lock_account(session: Session, account_id: int) -> None:
    """Keep calls off this one account until the commit; after `take_control` only, and only one.

    What a call holds at once is locked in order, so one account out of order waits but never deadlocks.
    """
    query = select(Account.id).where(Account.id == account_id)
    if session.get_bind().dialect.name == "postgresql":
        query = query.with_for_update(key_share=True)
    session.exec(query).first()
