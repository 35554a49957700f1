"""Find who pays for a call: the grants of an organisation, today's quotas included, as a ladder.

Around it: `programmes` publishes, `pools` funds, `granting` issues, `applications` and `codes` decide who
is granted what, `returning` gives the rest back, `refunds` and `claims` come after the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from catalog.ground.clock import DAY_US, SECOND_US, from_datetime, zone
from catalog.listings.callable import CallableListing
from marketplace.ledger.accounts import open_account
from marketplace.ledger.chart import CNY, Rule, quota_used, reimburse_due
from marketplace.members.parties import as_known
from marketplace.vouchers.granting import MARKER, Order, issue_grants
from marketplace.vouchers.knowledge import declared_facts, facts_of, org_facts
from marketplace.vouchers.ladder import Ladder
from marketplace.vouchers.leases import lease
from marketplace.vouchers.pools import fund
from marketplace.vouchers.predicates import Predicate
from marketplace.vouchers.programmes import programme, publish
from marketplace.vouchers.rules import Issued, load
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.tables import Application, Grant, Programme
from marketplace.vouchers.terms import Condition, Facts, GrantTerms
from marketplace.vouchers.velocity import open_day
from marketplace.vouchers.waterfall import build_ladder

__all__ = [
    "MARKER",
    "Payers",
    "fund",
    "issue",
    "ladder_for",
    "midnight_after_us",
    "programme",
    "publish",
    "quota_window",
]

LONGEST_US = 5 * 60 * SECOND_US
"""A ladder is built anew after this long even when nothing was announced."""


@dataclass(frozen=True, slots=True)
class Payers:
    """Who pays for an organisation's calls of one listing, until `good_until_us`."""

    ladder: Ladder
    sinks: Mapping[int, int]
    good_until_us: int


def issue(
    session: Session,
    tx: str,
    made: Programme,
    org_id: str,
    amount: int,
    at_us: int,
    *,
    window: str | None = None,
    expires_at_us: int | None = None,
) -> Grant:
    """Issue a grant of `amount` (micro-yuan, or the quota's unit) from the programme's pools.

    `tx` is the client's id: issuing twice under it returns the first grant. Raises `PaymentRequired`
    when a pool does not hold its share. Asks for no eligibility and no cap: that is `applications`.
    """
    order = Order(tx, made, org_id, amount, at_us, window or tx, expires_at_us)
    return issue_grants(session, order)[0]


def ladder_for(
    session: Session,
    org_id: str,
    listing: CallableListing,
    wallet_id: int,
    at_us: int,
    *,
    free: bool = False,
) -> Payers:
    """Return who pays for this organisation's calls of this listing, quotas of today included.

    `free`: the model was called by its free name, which only quotas may pay for.
    """
    sealed = _ensure_quotas(session, org_id, at_us)
    grants = session.exec(
        select(Grant).where(
            Grant.org_id == org_id, Grant.state == "active", col(Grant.expires_at_us) > at_us
        )
    ).all()
    terms = []
    sinks = {}
    asked = _applications(session, grants)
    for grant in grants:
        rules = sealed.get(grant.programme_id) or _sealed(session, grant.programme_id)
        sealed[grant.programme_id] = rules
        open_day(session, rules, org_id, at_us)
        if grant.ceiling is not None:
            lease(session, grant, at_us)
        promised = rules.terms(
            Issued(
                grant_id=grant.id,
                account_id=grant.account_id,
                effective_at_us=grant.effective_at_us,
                expires_at_us=grant.expires_at_us,
                remaining=grant.amount,
                unit=grant.unit,
                priority=grant.priority,
                bracket=grant.bracket,
            )
        )
        row = asked.get(grant.application_id)
        if row is not None:
            provider = as_known(session, row.provider)
            promised = _as_asked(promised, row, provider, listing.owner_org)
        terms.append(promised)
        if grant.unit != CNY:
            sinks[grant.account_id] = open_account(
                session, quota_used(grant.unit), Rule.PROJECTION, grant.unit
            )
        elif rules.rules.mode == "reimburse":
            sinks[grant.account_id] = open_account(session, reimburse_due(org_id), Rule.PROJECTION)
    known = facts_of(session, org_id, listing, at_us, free=free)
    ladder = build_ladder(
        terms,
        known.facts,
        wallet_account_id=None if free else wallet_id,
        at_us=at_us,
        vouchers=not free,
    )
    ends = [midnight_after_us(at_us), at_us + LONGEST_US, *(t.expires_at_us for t in terms)]
    if known.changes_at_us is not None:
        ends.append(known.changes_at_us)
    return Payers(ladder, sinks, min(ends))


def _applications(session: Session, grants: Sequence[Grant]) -> dict[str, Application]:
    """Return the applications that the grants come from, by id."""
    ids = {grant.application_id for grant in grants} - {""}
    query = select(Application).where(col(Application.id).in_(ids))
    return {row.id: row for row in session.exec(query).all()} if ids else {}


def _as_asked(terms: GrantTerms, row: Application, provider: str, owner: str) -> GrantTerms:
    """Return a voucher's terms with what its application says: facts of its contract, its `provider`.

    A voucher for a contract with one provider pays for that provider's listings alone, and pays first.
    """
    declared = declared_facts(row)
    conditions = tuple(_knowing(declared, condition) for condition in terms.conditions)
    if not provider:
        return replace(terms, conditions=conditions) if declared else terms
    only = Predicate(
        "grant.provider",
        terms.anti_fraud_clause,
        "it was issued for another provider's services",
        lambda _facts: owner == provider,
    )
    return replace(terms, item_specific=True, conditions=(*conditions, only))


def _knowing(declared: Facts, condition: Condition) -> Predicate:
    """Return the condition, asked with the contract's facts beside those of the call."""
    return Predicate(
        condition.rule,
        condition.clause,
        condition.text,
        lambda facts: condition.holds({**declared, **facts}),
    )


def _sealed(session: Session, programme_id: str) -> Sealed:
    return load(session.get_one(Programme, programme_id).rules)


def _ensure_quotas(session: Session, org_id: str, at_us: int) -> dict[str, Sealed]:
    """Issue this window's free quotas to the organisation; returns their programmes, sealed."""
    found = {}
    facts = org_facts(session, org_id, at_us).facts
    published = session.exec(select(Programme).where(Programme.state == "published")).all()
    for made in published:
        sealed = load(made.rules)
        quota = sealed.rules.quota
        if quota is None or sealed.admit(facts, at_us):
            continue
        found[made.id] = sealed
        window, end_us = quota_window(quota.recurrence, at_us)
        if not _has(session, made.id, org_id, window):
            tx = f"quota:{made.id}:{org_id}:{window}"
            order = Order(tx, made, org_id, quota.amount, at_us, window, end_us)
            issue_grants(session, order)
    return found


def _has(session: Session, programme_id: str, org_id: str, window: str) -> bool:
    """Return whether this window's quota is there: asked first, so that no lane is held for nothing."""
    query = select(Grant.id).where(
        Grant.programme_id == programme_id, Grant.org_id == org_id, Grant.window == window
    )
    return session.exec(query).first() is not None


def quota_window(recurrence: str, at_us: int) -> tuple[str, int]:
    """Return the name of the window that `at_us` lies in (Beijing time) and its end, exclusive."""
    day = datetime.fromtimestamp(at_us // SECOND_US, zone)
    if recurrence == "day":
        return day.strftime("%Y-%m-%d"), midnight_after_us(at_us)
    if recurrence == "month":
        first = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = (first + timedelta(days=32)).replace(day=1)
        return day.strftime("%Y-%m"), from_datetime(following)
    return "once", 2**62


def midnight_after_us(at_us: int) -> int:
    """Return the next midnight in Beijing."""
    day = datetime.fromtimestamp(at_us // SECOND_US, zone)
    start = day.replace(hour=0, minute=0, second=0, microsecond=0)
    return from_datetime(start) + DAY_US
