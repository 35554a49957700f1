"""A claim's lines: what is collected into them, how they are decided, and the hash that is signed for.

A line is one funder's part of one leg of one call, or (negative) of what was given back of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from sqlmodel import Session, col, func, or_, select

from marketplace.vouchers.claim_rules import waiting
from marketplace.vouchers.claimable import Item, refund_items, used_items
from marketplace.vouchers.periods import Period
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Claim, ClaimLine, Programme

PENDING, ALLOWED, REFUSED, CLAWED = "pending", "allowed", "disallowed", "clawed_back"
WITHDRAWN = "withdrawn"


def lines(
    session: Session, claim_id: str, after: int = 0, limit: int | None = None
) -> Sequence[ClaimLine]:
    """Return a claim's lines by number, those after line `after`."""
    query = select(ClaimLine).where(ClaimLine.claim_id == claim_id, col(ClaimLine.n) > after)
    return session.exec(query.order_by(col(ClaimLine.n)).limit(limit)).all()


def lines_sha256(found: Iterable[ClaimLine]) -> str:
    """Return the SHA-256 (hex) of the lines as they are claimed: what a funder signs for."""
    told = "".join(
        f"{line.n}\t{line.event_id}\t{line.leg}\t{line.refund_id}\t{line.grant_id}\t{line.amount_u}\n"
        for line in found
    )
    return hashlib.sha256(told.encode()).hexdigest()


def unclaimed(session: Session, made: Programme, funder_id: str, period: Period) -> list[Item]:
    """Return the funder's items without a live line. The last claim's period is looked through again.

    Everything is, once a claim was withdrawn: its lines may be of any time, and later claims went past them.
    What waits for more days of use (see `claim_rules`) is left for a later claim, and so is what was given
    back of a leg that an auditor has not decided yet: it shares that leg's fate.
    """
    programme_id, sealed = made.id, load(made.rules)
    before = session.exec(
        select(Claim.state, func.max(Claim.from_us))
        .where(Claim.programme_id == programme_id, Claim.funder_id == funder_id)
        .group_by(Claim.state)
    ).all()
    last_us = max((from_us for _, from_us in before), default=0)
    # Without a claim so far everything counts; a call may be booked after the period that it ended in.
    from_us = min(last_us, period.from_us)
    freed = any(state == WITHDRAWN for state, _ in before)
    if freed or sealed.rules.anti_fraud.min_distinct_days is not None:
        from_us = 0
    live = {
        (event_id, leg, refund_id)
        for event_id, leg, refund_id in session.exec(
            select(ClaimLine.event_id, ClaimLine.leg, ClaimLine.refund_id)
            .join(Claim, col(Claim.id) == ClaimLine.claim_id)
            .where(
                Claim.programme_id == programme_id,
                ClaimLine.funder_id == funder_id,
                ClaimLine.state != WITHDRAWN,
                or_(col(Claim.until_us) > from_us, ClaimLine.refund_id != ""),
            )
        )
    }
    items = [
        *used_items(session, programme_id, from_us, period.until_us),
        *refund_items(session, programme_id, period.until_us),
    ]
    later = waiting(session, programme_id, sealed, items, period.until_us)
    undecided = set(
        session.exec(
            select(ClaimLine.event_id, ClaimLine.leg).where(
                ClaimLine.funder_id == funder_id,
                ClaimLine.state == PENDING,
                ClaimLine.refund_id == "",
            )
        )
    )
    return [
        item
        for item in items
        if item.funder_id == funder_id
        and item.org_id not in later
        and (item.event_id, item.leg, item.refund_id) not in live
        and not (item.refund_id and (item.event_id, item.leg) in undecided)
    ]


def line_of(row: Claim, n: int, item: Item) -> ClaimLine:
    """Return the item as line `n` of the claim."""
    return ClaimLine(
        claim_id=row.id,
        n=n,
        funder_id=row.funder_id,
        event_id=item.event_id,
        leg=item.leg,
        refund_id=item.refund_id,
        grant_id=item.grant_id,
        org_id=item.org_id,
        owner_org=item.owner_org,
        amount_u=item.amount_u,
        owner_u=item.owner_u,
        state=PENDING,
    )


def decide(session: Session, line: ClaimLine, state: str, reason: str, by: str, at_us: int) -> None:
    """Note what was decided of a line, by whom and when."""
    line.state, line.reason, line.decided_by, line.decided_at_us = state, reason, by, at_us
    session.add(line)


def follow(session: Session, found: Iterable[ClaimLine], by: str, at_us: int) -> None:
    """Let refunds follow the leg that they give back: what was not paid is not paid back."""
    session.flush()
    for row in found:
        if row.refund_id and any(
            line.state in (REFUSED, CLAWED) and not line.refund_id for line in of_leg(session, row)
        ):
            decide(session, row, REFUSED, "follows the leg that it gives back", by, at_us)


def of_leg(session: Session, row: ClaimLine) -> Sequence[ClaimLine]:
    """Return this funder's live lines about the same leg of the same call."""
    return session.exec(
        select(ClaimLine).where(
            ClaimLine.event_id == row.event_id,
            ClaimLine.leg == row.leg,
            ClaimLine.funder_id == row.funder_id,
            ClaimLine.state != WITHDRAWN,
        )
    ).all()
