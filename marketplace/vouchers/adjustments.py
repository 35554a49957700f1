"""Corrections of the ledger that two persons make: one proposes, another books.

Never from or to a grant or a pool: public money moves by its own rules only, and a correction must not be
a way to turn a voucher into cash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from marketplace.ledger.accounts import account_id, apply_now, take_control
from marketplace.ledger.chart import Code
from marketplace.ledger.operations import Entry, Post
from marketplace.members.four_eyes import two_persons
from marketplace.vouchers.tables import Adjustment

_ALLOWED = re.compile(r"wallet:\w+|platform:\w+|owner:\w+:unsettled")
PROPOSED, BOOKED = "proposed", "booked"


def propose(
    session: Session,
    adjustment_id: str,
    from_account: str,
    to_account: str,
    amount_u: int,
    reason: str,
    by: str,
    at_us: int,
) -> Adjustment:
    """Propose to move `amount_u` between two accounts (codes), under the client's id; once."""
    known = session.get(Adjustment, adjustment_id)
    if known is not None:
        return known
    for code in (from_account, to_account):
        if not _ALLOWED.fullmatch(code):
            raise BadRequest(
                f"{code} is not adjusted by hand.",
                rule="adjustment.account",
                remedy="Use wallet:…, platform:… or owner:…:unsettled.",
            )
        account_id(session, code)
    if amount_u <= 0 or not reason.strip() or from_account == to_account:
        raise BadRequest("An adjustment moves more than 0 and says why.", rule="adjustment.form")
    row = Adjustment(
        id=adjustment_id,
        from_account=from_account,
        to_account=to_account,
        amount_u=amount_u,
        reason=reason,
        state=PROPOSED,
        proposed_by=by,
        at_us=at_us,
    )
    session.add(row)
    session.flush()
    return row


def book(session: Session, adjustment_id: str, by: str, at_us: int) -> Adjustment:
    """Book a proposed adjustment; `by` did not propose it. Twice is once."""
    take_control(session)
    row = session.get(Adjustment, adjustment_id)
    if row is None:
        raise NotFound(f"There is no adjustment {adjustment_id!r}.", rule="adjustment.exists")
    if row.state == BOOKED:
        return row
    two_persons(by, row.proposed_by, what="adjustment")
    if row.state != PROPOSED:
        raise Conflict(f"This adjustment is {row.state}.", rule="adjustment.state")
    sides = (account_id(session, row.from_account), account_id(session, row.to_account))
    entry = Entry(Code.ADJUST, *sides, row.amount_u)
    apply_now(session, Post(f"adjust:{row.id}", (entry,), at_us))
    row.state, row.approved_by = BOOKED, by
    session.add(row)
    session.flush()
    return row


def adjustments(session: Session) -> Sequence[Adjustment]:
    """Return every adjustment, oldest first."""
    return session.exec(select(Adjustment).order_by(col(Adjustment.id))).all()
