"""Pay an organisation what is available to it. No payment rail: a file goes out, a reference comes back.

    prepared ─► approved ─► exported ─► paid
        └───────────┴──────────┴─────────┴─► reversed: the money is available again

Whoever prepared a payout does not approve it. Nothing is approved while the organisation is under review.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from marketplace.ledger.accounts import account_id, apply_now, open_account, take_control
from marketplace.ledger.chart import BANK, Code, Rule, owner_available, owner_paying
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.reading import totals
from marketplace.members.four_eyes import two_persons
from marketplace.payouts.holds import is_held
from marketplace.payouts.tables import Payout

PREPARED, APPROVED, EXPORTED, PAID, REVERSED = (
    "prepared",
    "approved",
    "exported",
    "paid",
    "reversed",
)


def prepare(
    session: Session,
    payout_id: str,
    org_id: str,
    by: str,
    at_us: int,
    *,
    amount_u: int | None = None,
    statement_id: str = "",
) -> Payout:
    """Set aside what is available (or `amount_u` of it) for a payout under the client's id; once."""
    take_control(session)
    known = session.get(Payout, payout_id)
    if known is not None:
        return known
    available = open_account(session, owner_available(org_id), Rule.DEBITS_WITHIN_CREDITS)
    have_u = totals(session, [available])[available].available
    wanted_u = have_u if amount_u is None else amount_u
    if not 0 < wanted_u <= have_u:
        raise Conflict(
            f"{have_u} micro-yuan are available for a payout.",
            rule="payout.available",
            details={"available_u": have_u},
        )
    paying = open_account(session, owner_paying(org_id), Rule.DEBITS_WITHIN_CREDITS)
    entry = Entry(Code.PAYOUT_HOLD, available, paying, wanted_u)
    apply_now(session, Post(f"payout:{payout_id}:hold", (entry,), at_us))
    row = Payout(
        id=payout_id,
        org_id=org_id,
        statement_id=statement_id,
        amount_u=wanted_u,
        state=PREPARED,
        prepared_by=by,
        prepared_at_us=at_us,
    )
    session.add(row)
    session.flush()
    return row


def approve(session: Session, payout_id: str, by: str, at_us: int) -> Payout:
    """Let it be paid. `by` did not prepare it."""
    row = _at(session, payout_id, PREPARED, APPROVED)
    if row.state == APPROVED:
        return row
    two_persons(by, row.prepared_by, what="payout")
    if is_held(session, row.org_id):
        raise Conflict(
            "The organisation is under review.",
            rule="payout.held",
            remedy="Release the hold first.",
        )
    row.state, row.approved_by, row.approved_at_us = APPROVED, by, at_us
    return _saved(session, row)


def mark_exported(session: Session, payout_id: str, file_id: str) -> Payout:
    """Note in which payment file it went out."""
    row = _at(session, payout_id, APPROVED, EXPORTED)
    row.state, row.file_id = EXPORTED, file_id
    return _saved(session, row)


def paid(session: Session, payout_id: str, bank_ref: str, by: str, at_us: int) -> Payout:
    """Note that the bank has executed it. `by` did not prepare it."""
    row = _at(session, payout_id, EXPORTED, PAID)
    if row.state == PAID:
        if row.bank_ref != bank_ref:
            raise Conflict("It was paid under another bank reference.", rule="payout.once")
        return row
    two_persons(by, row.prepared_by, what="payout")
    if not bank_ref.strip():
        raise BadRequest("Give the bank's reference.", rule="payout.bank_ref", param="bank_ref")
    paying = open_account(session, owner_paying(row.org_id), Rule.DEBITS_WITHIN_CREDITS)
    entry = Entry(Code.PAYOUT, paying, account_id(session, BANK), row.amount_u)
    apply_now(session, Post(f"payout:{row.id}:paid", (entry,), at_us))
    row.state, row.bank_ref, row.closed_by, row.closed_at_us = PAID, bank_ref, by, at_us
    row.was_paid = 1
    return _saved(session, row)


def reverse(session: Session, payout_id: str, reason: str, by: str, at_us: int) -> Payout:
    """Take it back: before it is paid, or because the bank returned it. The money is available again."""
    take_control(session)
    row = payout(session, payout_id)
    if row.state == REVERSED:
        return row
    if not reason.strip():
        raise BadRequest("Say why it is reversed.", rule="payout.reason", param="reason")
    if row.state == PAID:
        two_persons(by, row.closed_by, what="payout")
        source = account_id(session, BANK)
    else:
        source = open_account(session, owner_paying(row.org_id), Rule.DEBITS_WITHIN_CREDITS)
    available = open_account(session, owner_available(row.org_id), Rule.DEBITS_WITHIN_CREDITS)
    entry = Entry(Code.PAYOUT_REVERSE, source, available, row.amount_u)
    apply_now(session, Post(f"payout:{row.id}:reverse", (entry,), at_us))
    row.state, row.reason, row.closed_by, row.closed_at_us = REVERSED, reason, by, at_us
    return _saved(session, row)


def payout(session: Session, payout_id: str) -> Payout:
    """Return a payout; `NotFound` otherwise."""
    found = session.get(Payout, payout_id)
    if found is None:
        raise NotFound(f"There is no payout {payout_id!r}.", rule="payout.exists")
    return found


def payouts(
    session: Session, *, org_id: str | None = None, state: str | None = None
) -> Sequence[Payout]:
    """Return payouts, oldest first."""
    query = select(Payout).order_by(col(Payout.id))
    if org_id is not None:
        query = query.where(Payout.org_id == org_id)
    if state is not None:
        query = query.where(Payout.state == state)
    return session.exec(query).all()


def _at(session: Session, payout_id: str, before: str, after: str) -> Payout:
    take_control(session)
    row = payout(session, payout_id)
    if row.state not in (before, after):
        raise Conflict(f"This payout is {row.state}, not {before}.", rule="payout.state")
    return row


def _saved(session: Session, row: Payout) -> Payout:
    session.add(row)
    session.flush()
    return row
