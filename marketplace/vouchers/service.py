"""Publish programmes, issue grants, and find who pays for a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from catalog.ground.clock import DAY_US, SECOND_US, from_datetime, zone
from catalog.ground.errors import Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from catalog.listings.offer import CallableListing
from marketplace.ledger.accounts import apply_now, open_account
from marketplace.ledger.chart import (
    CNY,
    Code,
    Rule,
    funder_outside,
    pool,
    quota_used,
    reimburse_due,
)
from marketplace.ledger.chart import grant as grant_code
from marketplace.ledger.operations import Entry, Post
from marketplace.vouchers.knowledge import facts_of, org_facts
from marketplace.vouchers.ladder import Ladder
from marketplace.vouchers.rules import Issued, load
from marketplace.vouchers.rules import Programme as Sealed
from marketplace.vouchers.split import drawn
from marketplace.vouchers.tables import Funder, Grant, Programme, ProgrammeFunder
from marketplace.vouchers.waterfall import build_ladder

MARKER = "vouchers"
"""Name of the change marker that tells gateways to build their ladders anew."""
LONGEST_US = 5 * 60 * SECOND_US
"""A ladder is built anew after this long even when nothing was announced."""


@dataclass(frozen=True, slots=True)
class Payers:
    """Who pays for an organisation's calls of one listing, until `good_until_us`."""

    ladder: Ladder
    sinks: Mapping[int, int]
    good_until_us: int


def publish(session: Session, document: str | bytes, author: str, at_us: int) -> Programme:
    """Add a programme version and open its funders' pools; the same bytes again change nothing."""
    sealed = load(document)
    rules = sealed.rules
    known = session.exec(
        select(Programme).where(Programme.code == rules.code, Programme.version == rules.version)
    ).first()
    if known is not None:
        if known.sha256 == sealed.sha256:
            return known
        raise Conflict(
            f"{sealed.name} is published and cannot be changed.",
            rule="programme.immutable",
            remedy=f"Publish version {rules.version + 1}.",
        )
    made = Programme(
        id=new_id("prg"),
        code=rules.code,
        version=rules.version,
        rules=sealed.canonical,
        sha256=sealed.sha256,
        state="published",
        author=author,
        created_at_us=at_us,
        published_at_us=at_us,
    )
    session.add(made)
    for position, part in enumerate(rules.funders):
        funder = _funder(session, part.funder, part.level)
        account = open_account(session, pool(made.id, funder.id), Rule.DEBITS_WITHIN_CREDITS)
        session.add(
            ProgrammeFunder(
                programme_id=made.id,
                position=position,
                funder_id=funder.id,
                share_bp=part.share_bp,
                pool_account_id=account,
            )
        )
    session.flush()
    raise_marker(session, MARKER)
    return made


def _funder(session: Session, code: str, level: str) -> Funder:
    found = session.exec(select(Funder).where(Funder.code == code)).first()
    if found is None:
        found = Funder(id=new_id("fnd"), code=code, name_zh=code, name_en=code, level=level)
        session.add(found)
        session.flush()
    return found


def programme(session: Session, code: str, version: int | None = None) -> Programme:
    """Return a programme by code, its newest version unless one is named."""
    query = select(Programme).where(Programme.code == code)
    if version is not None:
        query = query.where(Programme.version == version)
    found = session.exec(query.order_by(col(Programme.version).desc())).first()
    if found is None:
        raise NotFound(f"There is no programme {code!r}.", rule="programme.exists")
    return found


def fund(session: Session, tx: str, programme_id: str, amount_u: int, at_us: int) -> None:
    """Book what the funders appropriate together: `amount_u` split by their shares, exactly."""
    entries = []
    for part, share_u in _shares(session, programme_id, amount_u):
        outside = open_account(session, funder_outside(part.funder_id), Rule.PROJECTION)
        entries.append(Entry(Code.FUND, outside, part.pool_account_id, share_u))
    apply_now(session, Post(tx, tuple(e for e in entries if e.amount), at_us))


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
    when a pool does not hold its share.
    """
    sealed = load(made.rules)
    window = tx if window is None else window
    known = session.exec(
        select(Grant).where(
            Grant.programme_id == made.id, Grant.org_id == org_id, Grant.window == window
        )
    ).first()
    if known is not None:
        return known
    unit = sealed.rules.quota.unit if sealed.rules.quota else CNY
    granted = Grant(
        id=new_id("grt"),
        programme_id=made.id,
        org_id=org_id,
        account_id=0,
        unit=unit,
        amount=amount,
        priority=sealed.rules.stacking.priority,
        window=window,
        state="active",
        issued_at_us=at_us,
        effective_at_us=at_us,
        expires_at_us=sealed.expiry_us(at_us) if expires_at_us is None else expires_at_us,
    )
    code = grant_code(granted.id)
    granted.account_id = open_account(session, code, Rule.DEBITS_WITHIN_CREDITS, unit)
    session.add(granted)
    apply_now(session, Post(tx, _issue_entries(session, made, granted), at_us))
    raise_marker(session, MARKER)
    return granted


def _issue_entries(session: Session, made: Programme, granted: Grant) -> tuple[Entry, ...]:
    if granted.unit != CNY:
        source = open_account(session, quota_used(granted.unit), Rule.PROJECTION, granted.unit)
        return (Entry(Code.ISSUE, source, granted.account_id, granted.amount),)
    shares = _shares(session, made.id, granted.amount)
    return tuple(
        Entry(Code.ISSUE, part.pool_account_id, granted.account_id, share_u)
        for part, share_u in shares
        if share_u
    )


def _shares(
    session: Session, programme_id: str, amount_u: int
) -> Sequence[tuple[ProgrammeFunder, int]]:
    """Return each funder's part of an amount, by the same function that splits its use."""
    parts = session.exec(
        select(ProgrammeFunder)
        .where(ProgrammeFunder.programme_id == programme_id)
        .order_by(col(ProgrammeFunder.position))
    ).all()
    amounts = drawn(tuple(part.share_bp for part in parts), amount_u)
    return list(zip(parts, amounts, strict=True))


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
    for grant in grants:
        rules = sealed.get(grant.programme_id) or _sealed(session, grant.programme_id)
        sealed[grant.programme_id] = rules
        terms.append(
            rules.terms(
                Issued(
                    grant_id=grant.id,
                    account_id=grant.account_id,
                    effective_at_us=grant.effective_at_us,
                    expires_at_us=grant.expires_at_us,
                    remaining=grant.amount,
                    unit=grant.unit,
                    priority=grant.priority,
                )
            )
        )
        if grant.unit != CNY:
            sinks[grant.account_id] = open_account(
                session, quota_used(grant.unit), Rule.PROJECTION, grant.unit
            )
        elif rules.rules.mode == "reimburse":
            sinks[grant.account_id] = open_account(
                session, reimburse_due(org_id), Rule.DEBITS_WITHIN_CREDITS
            )
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
        tx = f"quota:{made.id}:{org_id}:{window}"
        if quota.unit == CNY:
            fund(session, f"fund:{tx}", made.id, quota.amount, at_us)
        issue(session, tx, made, org_id, quota.amount, at_us, window=window, expires_at_us=end_us)
    return found


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
