"""How much one organisation may spend of a programme in a Beijing day, without asking at any call.

A programme with `velocity_u_per_day` fills its grants by leases. What an organisation could still spend
when the day began counts as that day's first lease, and every issue and lease of the day counts on top,
so the sum never passes the limit: nobody can spend more in the day than it could get hold of. The request
path touches its grants' rows and nothing else, as with every cap.
"""

from __future__ import annotations

from sqlmodel import Session, col, select

from marketplace.ledger.accounts import take_control
from marketplace.ledger.chart import CNY
from marketplace.ledger.reading import totals
from marketplace.vouchers.caps import velocity_key
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.tables import CapUse, Grant, Programme

_CARRIED = "carried"


def open_day(session: Session, sealed: Sealed, org_id: str, at_us: int) -> None:
    """Note what the organisation carries into this day; once a day, before its first call or lease.

    A call belongs to the day on which it began. What open calls hold is counted as carried over, because
    what they release may be spent today.
    """
    if sealed.rules.anti_fraud.velocity_u_per_day is None:
        return
    key = velocity_key(sealed, org_id, at_us)
    if session.get(CapUse, (key, _CARRIED)) is not None:
        return
    take_control(session)
    if session.get(CapUse, (key, _CARRIED)) is not None:
        return
    query = (
        select(Grant.account_id)
        .join(Programme, col(Programme.id) == Grant.programme_id)
        .where(
            Programme.code == sealed.rules.code,
            Grant.org_id == org_id,
            Grant.unit == CNY,
            Grant.state == "active",
            col(Grant.expires_at_us) > at_us,
        )
    )
    held = totals(session, session.exec(query).all()).values()
    carried_u = sum(account.available + account.dr_pending for account in held)
    session.add(CapUse(key=key, tx=_CARRIED, grant_id="", issued_u=carried_u))
    session.flush()
