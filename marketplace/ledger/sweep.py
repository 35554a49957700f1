"""Return what dead processes still hold: expire every hold that outlived its call."""

from __future__ import annotations

from sqlmodel import Session, col, select

from marketplace.ledger.operations import Release
from marketplace.ledger.tables import Hold


def expired_holds(session: Session, at_us: int, limit: int = 500) -> list[Release]:
    """Return the operations that expire the oldest overdue holds, at most `limit`."""
    query = (
        select(Hold.tx)
        .where(col(Hold.expires_at_us) <= at_us)
        .order_by(col(Hold.expires_at_us))
        .limit(limit)
    )
    return [Release(tx, at_us, expired=True) for tx in session.exec(query)]
