"""Return what dead processes still hold: expire every hold that outlived its call.

A hold made while the clock was ahead would outlive it by hours. Calls renew their holds all the time, so
one that expires later than any of them could ask for is cut to what a call may have now.
"""

from __future__ import annotations

from sqlmodel import Session, col, or_, select

from catalog.ground.clock import SECOND_US
from marketplace.ledger.operations import Release, Renew
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


def holds_from_ahead(session: Session, at_us: int, ttl_s: int, limit: int = 500) -> list[Renew]:
    """Return the operations that shorten holds for calls which were made by a clock that was ahead.

    `ttl_s` is how long a hold for calls lives. Holds of other things (invoices) have lives of their own.
    """
    ttl_us = ttl_s * SECOND_US
    query = (
        select(Hold.tx)
        .where(col(Hold.expires_at_us) > at_us + 2 * ttl_us)
        .where(
            or_(
                col(Hold.tx).startswith("gen_", autoescape=True),
                col(Hold.tx).startswith("res_", autoescape=True),
            )
        )
        .limit(limit)
    )
    return [Renew(tx, at_us + ttl_us) for tx in session.exec(query)]
