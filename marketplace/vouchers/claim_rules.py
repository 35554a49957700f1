"""Rules that nobody can decide at the call: the claim waits for them, or its audit refuses by them.

    min_distinct_days  what an organisation used is not claimed while it may still reach the days; once
                       its vouchers have ended short of them, its lines are claimed and refused
    related_party      a link that became known after the call, but was in force at it

A line that a rule refuses is refused whatever the auditor says: a person can only say less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache

from sqlmodel import Session, col, select

from catalog.ground.clock import zone
from marketplace.ledger.tables import UsageEvent
from marketplace.members.parties import all_links, as_known
from marketplace.members.related import Link, are_related
from marketplace.vouchers.claimable import Item, used_items
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Claim, ClaimLine, Grant, Programme
from marketplace.vouchers.terms import Refusal

_ALWAYS = 2**62


def waiting(
    session: Session, programme_id: str, sealed: Sealed, items: Sequence[Item], until_us: int
) -> set[str]:
    """Return the organisations whose use is not claimed yet: too few days, and a voucher still open.

    `items` are all of the programme version so far.
    """
    least = sealed.rules.anti_fraud.min_distinct_days
    if least is None:
        return set()
    short = {org for org, days in _days(items).items() if len(days) < least}
    short -= _allowed_before(session, programme_id)
    query = select(Grant.org_id).where(
        Grant.programme_id == programme_id,
        Grant.state == "active",
        col(Grant.expires_at_us) > until_us,
    )
    return short.intersection(session.exec(query).all())


def findings(session: Session, row: Claim, found: Sequence[ClaimLine]) -> dict[int, Refusal]:
    """Return the lines that a rule refuses, by number. Refunds follow the leg that they give back."""
    sealed = load(session.get_one(Programme, row.programme_id).rules)
    own = [line for line in found if not line.refund_id]
    return {
        **_too_few_days(session, sealed, row, own),
        **_related(session, sealed, own),
    }


def words(refusal: Refusal) -> str:
    """Return the refusal as a line's reason: rule, words, clause."""
    clause = f" ({refusal.clause})" if refusal.clause else ""
    return f"{refusal.rule}: {refusal.message}{clause}"


def _too_few_days(
    session: Session, sealed: Sealed, row: Claim, found: Sequence[ClaimLine]
) -> dict[int, Refusal]:
    least = sealed.rules.anti_fraud.min_distinct_days
    if least is None:
        return {}
    days = _days(used_items(session, row.programme_id, 0, row.until_us))
    enough = _allowed_before(session, row.programme_id)
    refused = {}
    for line in found:
        count = len(days[line.org_id])
        if count < least and line.org_id not in enough:
            message = f"It was used on {count} days, and {least} are the least."
            refused[line.n] = _refusal(sealed, "min_distinct_days", message)
    return refused


def _related(session: Session, sealed: Sealed, found: Sequence[ClaimLine]) -> dict[int, Refusal]:
    if sealed.rules.anti_fraud.related_party != "block":
        return {}
    links = all_links(session)
    ever = [Link(link.first, link.second, link.kind, 0, None, link.holding_bp) for link in links]

    @cache
    def may_be(org_id: str, owner: str) -> bool:
        return org_id != owner and are_related(org_id, as_known(session, owner), ever, _ALWAYS - 1)

    refused = {}
    for line in found:
        if not may_be(line.org_id, line.owner_org):
            continue
        call = session.get(UsageEvent, line.event_id)
        # A call that has been archived was claimed long ago; only what is here can still be looked at.
        owner = as_known(session, line.owner_org)
        if call and are_related(line.org_id, owner, links, call.ended_at_us):
            message = "The caller and the provider were related at the time of the call."
            refused[line.n] = _refusal(sealed, "related_party", message)
    return refused


def _allowed_before(session: Session, programme_id: str) -> set[str]:
    """Return who has had use allowed: it had the days then, though their calls may be archived by now."""
    query = (
        select(ClaimLine.org_id)
        .join(Claim, col(Claim.id) == ClaimLine.claim_id)
        .where(Claim.programme_id == programme_id, ClaimLine.state == "allowed")
        .distinct()
    )
    return set(session.exec(query).all())


def _days(items: Iterable[Item]) -> defaultdict[str, set[str]]:
    """Return on which Beijing days each organisation used its vouchers."""
    days: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        if not item.refund_id:
            days[item.org_id].add(
                datetime.fromtimestamp(item.at_us // 1_000_000, zone).date().isoformat()
            )
    return days


def _refusal(sealed: Sealed, rule: str, message: str) -> Refusal:
    clause = sealed.rules.anti_fraud.clause
    return Refusal("", sealed.name, f"anti_fraud.{rule}", clause, message)
