"""Money stands still while its owner, or one of its listings, is under review."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, NotFound
from marketplace.members.four_eyes import two_persons
from marketplace.payouts.tables import PayoutHold


def hold(
    session: Session, hold_id: str, org_id: str, reason: str, by: str, at_us: int
) -> PayoutHold:
    """Let nothing mature or be approved for the organisation; the same id again changes nothing."""
    known = session.get(PayoutHold, hold_id)
    if known is not None:
        return known
    if not reason.strip():
        raise BadRequest("Say what is under review.", rule="hold.reason", param="reason")
    row = PayoutHold(id=hold_id, org_id=org_id, reason=reason, by=by, at_us=at_us)
    session.add(row)
    session.flush()
    return row


def release(session: Session, hold_id: str, by: str, at_us: int) -> PayoutHold:
    """End the hold; `by` is not who made it."""
    row = session.get(PayoutHold, hold_id)
    if row is None:
        raise NotFound(f"There is no hold {hold_id!r}.", rule="hold.exists")
    if row.released_at_us is not None:
        return row
    two_persons(by, row.by, what="hold")
    row.released_by, row.released_at_us = by, at_us
    session.add(row)
    session.flush()
    return row


def holds(session: Session, org_id: str) -> Sequence[PayoutHold]:
    """Return the organisation's open holds."""
    query = select(PayoutHold).where(
        PayoutHold.org_id == org_id, col(PayoutHold.released_at_us).is_(None)
    )
    return session.exec(query.order_by(col(PayoutHold.id))).all()


def is_held(session: Session, org_id: str) -> bool:
    """Return whether anything of the organisation is under review."""
    return bool(holds(session, org_id))
