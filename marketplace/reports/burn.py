"""Budget burn: where each funder's money is, and when it will be gone at the present pace.

appropriated = pool + granted          granted = open + held + used
                                       used    = unclaimed + claimed + receivable + settled + disallowed
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, func, select

from catalog.ground.clock import DAY_US
from catalog.ground.errors import BadRequest
from marketplace.ledger.chart import CNY
from marketplace.ledger.reading import Totals, totals
from marketplace.ledger.tables import UsageEvent
from marketplace.reports.sheets import Report, Row, sheet
from marketplace.reports.sources import Names, day_of, heads
from marketplace.vouchers.claimable import books_of, refund_items, used_items
from marketplace.vouchers.pools import funders_of
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Appropriation, Claim, ClaimLine, Programme, ProgrammeFunder

_EVER_US = 2**62
_LIVE = ("pending", "allowed", "disallowed", "clawed_back")
FURTHEST_DAYS = 3660
"""A forecast beyond ten years is none."""


def burn(session: Session, at_us: int, days: int = 30, code: str | None = None) -> Report:
    """Return a row for each programme and funder. The pace is the mean of the last `days` days."""
    if days < 1:
        raise BadRequest("The pace needs at least one day.", rule="report.days", param="days")
    query = select(Programme).order_by(col(Programme.code), col(Programme.version))
    rows: list[Row] = []
    for made in session.exec(query).all():
        if (code is None or made.code == code) and load(made.rules).rules.quota is None:
            rows += _programme(session, made, at_us, days)
    cover = {
        "made_on": day_of(at_us),
        "pace_days": days,
        "all_agree": all(row["agrees"] for row in rows),
    }
    cover |= {f"chain_head {name}": head for name, head in heads(session).items()}
    return Report("Budget burn", cover, (sheet("burn", rows),))


def _programme(session: Session, made: Programme, at_us: int, days: int) -> list[Row]:
    granted, held, open_u = _grants(session, made)
    used: dict[str, int] = defaultdict(int)
    recent: dict[str, int] = defaultdict(int)
    for item in (
        *used_items(session, made.id, 0, _EVER_US),
        *refund_items(session, made.id, _EVER_US),
    ):
        used[item.funder_id] += item.amount_u
        if item.at_us >= at_us - days * DAY_US:
            recent[item.funder_id] += item.amount_u
    for funder_id, amount_u in _archived(session, made.id):
        used[funder_id] += amount_u
    places = funders_of(session, made.id)
    pools = totals(session, [place.pool_account_id for place in places])
    claims = _claims(session, made.id)
    return [
        _row(
            session,
            made,
            place,
            pools[place.pool_account_id],
            {
                "granted_u": granted[place.funder_id],
                "held_u": held[place.funder_id],
                "open_u": open_u[place.funder_id],
                "used_u": used[place.funder_id],
            },
            claims.get(place.funder_id, {}),
            recent[place.funder_id] // days,
            at_us,
        )
        for place in places
    ]


def _archived(session: Session, programme_id: str) -> Sequence[tuple[str, int]]:
    """Return what calls in archives used, by funder: they had been claimed, and their lines remain."""
    query = (
        select(ClaimLine.funder_id, func.sum(ClaimLine.amount_u))
        .join(Claim, col(Claim.id) == ClaimLine.claim_id)
        .outerjoin(UsageEvent, col(UsageEvent.id) == ClaimLine.event_id)
        .where(Claim.programme_id == programme_id, col(ClaimLine.state).in_(_LIVE))
        .where(ClaimLine.refund_id == "", col(UsageEvent.id).is_(None))
        .group_by(col(ClaimLine.funder_id))
    )
    return [(funder_id, int(amount)) for funder_id, amount in session.exec(query)]


def _grants(
    session: Session, made: Programme
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return what stands on grants by funder: all of it, what calls hold, and what is free."""
    granted: dict[str, int] = defaultdict(int)
    held: dict[str, int] = defaultdict(int)
    free: dict[str, int] = defaultdict(int)
    books = books_of(session, made.id)
    balances = totals(session, list(books))
    for account, book in books.items():
        if book.grant.unit != CNY:
            continue
        whole = book.grant.amount - book.grant.returned
        balance = balances[account]
        used = whole - balance.available - balance.dr_pending
        ends = (used, used + balance.dr_pending, whole)
        parts = [book.split.drawn(end) for end in ends]
        for index, funder_id in enumerate(book.split.funders):
            granted[funder_id] += parts[2][index]
            held[funder_id] += parts[1][index] - parts[0][index]
            free[funder_id] += parts[2][index] - parts[1][index]
    return granted, held, free


def _claims(session: Session, programme_id: str) -> dict[str, dict[str, int]]:
    """Return the sums of live claim lines, by funder and by where they stand."""
    query = (
        select(ClaimLine.funder_id, Claim.state, ClaimLine.state, func.sum(ClaimLine.amount_u))
        .join(Claim, col(Claim.id) == ClaimLine.claim_id)
        .where(Claim.programme_id == programme_id, col(ClaimLine.state).in_(_LIVE))
        .group_by(col(ClaimLine.funder_id), col(Claim.state), col(ClaimLine.state))
    )
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for funder_id, claim_state, line_state, amount in session.exec(query):
        found[funder_id][_place(claim_state, line_state)] += int(amount)
    return found


def _place(claim_state: str, line_state: str) -> str:
    if claim_state in ("draft", "submitted"):
        return "claimed_u"
    if line_state in ("disallowed", "clawed_back"):
        return "disallowed_u"
    return "settled_u" if claim_state == "settled" else "receivable_u"


def _row(
    session: Session,
    made: Programme,
    place: ProgrammeFunder,
    pool: Totals,
    grants: dict[str, int],
    claims: dict[str, int],
    pace_u: int,
    at_us: int,
) -> Row:
    funder = Names(session).funder(place.funder_id)
    appropriated_u = _appropriated(session, place)
    in_claims = {
        name: claims.get(name, 0)
        for name in ("claimed_u", "receivable_u", "settled_u", "disallowed_u")
    }
    left_u = pool.available + grants["open_u"]
    row: dict[str, Any] = {
        "programme": f"{made.code}@{made.version}",
        "funder": funder.code,
        "level": funder.level,
        "share_bp": place.share_bp,
        "appropriated_u": appropriated_u,
        "pool_u": pool.available,
        **grants,
        "unclaimed_u": grants["used_u"] - sum(in_claims.values()),
        **in_claims,
        "left_u": left_u,
        "pace_u_per_day": pace_u,
        "gone_on": _gone_on(left_u, pace_u, at_us),
    }
    row["agrees"] = grants["granted_u"] == (grants["open_u"] + grants["held_u"] + grants["used_u"])
    return row


def _appropriated(session: Session, place: ProgrammeFunder) -> int:
    query = select(func.sum(Appropriation.amount_u)).where(
        Appropriation.programme_id == place.programme_id,
        Appropriation.funder_id == place.funder_id,
    )
    return int(session.exec(query).one() or 0)


def _gone_on(left_u: int, pace_u: int, at_us: int) -> str:
    """Return the day on which the money ends, '' when it does not within ten years."""
    if left_u <= 0:
        return day_of(at_us)
    if pace_u <= 0 or -(-left_u // pace_u) > FURTHEST_DAYS:
        return ""
    return day_of(at_us + -(-left_u // pace_u) * DAY_US)
