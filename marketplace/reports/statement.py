"""An organisation's month: what it had, what it used, who paid, what is left and what will expire."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.clock import DAY_US, to_iso
from marketplace.ledger.chart import CNY, Code, wallet
from marketplace.ledger.reading import events_of, journal_balance_u, totals
from marketplace.ledger.tables import UsageEvent
from marketplace.members.organisations import masked_uscc
from marketplace.members.tables import Organisation
from marketplace.reports.sheets import Report, Row, sheet
from marketplace.reports.sources import (
    FunderPart,
    Names,
    flows,
    funder_parts,
    heads,
    month,
    refuse_archived,
)
from marketplace.vouchers.tables import Grant, Refund, RefundLeg

_PAGE = 400


def statement(session: Session, org: Organisation, name: str, at_us: int) -> Report:
    """Return the statement of a month such as `2026-11`. Its sums are the ledger's, to the micro-yuan."""
    period = month(name)
    refuse_archived(session, period)
    code = wallet(org.id)
    opening_u = journal_balance_u(session, code, period.from_us)
    during = flows(session, code, period.from_us, period.until_us)
    events = list(events_of(session, [org.id], period.from_us, period.until_us))
    parts = [
        part
        for start in range(0, len(events), _PAGE)
        for part in funder_parts(session, events[start : start + _PAGE])
    ]
    sums = {
        field: sum(getattr(event, field) for event in events)
        for field in ("cost_u", "voucher_u", "free_u", "wallet_u", "overrun_u")
    }
    used_u = during.out.get(Code.USE, 0)
    known = {Code.TOPUP: during.into, Code.REFUND: during.into, Code.USE: during.out}
    other_u = during.net_u - sum(
        side.get(why, 0) * (1 if side is during.into else -1) for why, side in known.items()
    )
    cover: dict[str, Any] = {
        "organisation": org.slug,
        "name": org.name,
        "uscc": masked_uscc(org),
        "month": name,
        "opening_u": opening_u,
        "top_ups_u": during.into.get(Code.TOPUP, 0),
        "used_u": used_u,
        "refunds_u": during.into.get(Code.REFUND, 0),
        "other_u": other_u,
        "closing_u": opening_u + during.net_u,
        "calls": len(events),
        "cost_u": sums["cost_u"],
        "vouchers_u": sums["voucher_u"],
        "free_u": sums["free_u"],
        "platform_u": sums["overrun_u"],
        "saved_u": sums["voucher_u"] + sums["free_u"],
        "paid_later_u": sum(part.item.amount_u for part in parts if not part.now),
        "sums_agree": sums["wallet_u"] == used_u
        and sums["cost_u"]
        == sums["wallet_u"] + sums["voucher_u"] + sums["free_u"] + sums["overrun_u"],
        "made_at": to_iso(at_us),
    }
    cover |= {f"chain_head {lane}": head for lane, head in heads(session).items()}
    return Report(
        "Statement",
        cover,
        (
            sheet("use_by_listing", _by_listing(events)),
            sheet("vouchers_by_funder", _by_funder(Names(session), parts)),
            sheet("refunds", _refunds(session, org.id, period.from_us, period.until_us)),
            sheet("expiring", _expiring(session, org.id, at_us)),
        ),
    )


def _by_listing(events: Iterable[UsageEvent]) -> list[Row]:
    found: dict[str, dict[str, Any]] = {}
    fields = ("cost_u", "voucher_u", "free_u", "wallet_u", "overrun_u")
    for event in events:
        row = found.setdefault(
            event.listing,
            {"listing": event.listing, "calls": 0, "input": 0, "output": 0}
            | dict.fromkeys(fields, 0),
        )
        row["calls"] += 1
        row["input"] += event.input_uncached + event.cache_read + event.cache_write
        row["output"] += event.output + event.reasoning
        for field in fields:
            row[field] += getattr(event, field)
    return [found[name] for name in sorted(found)]


def _by_funder(names: Names, parts: Iterable[FunderPart]) -> list[Row]:
    found: dict[tuple[str, str, bool], int] = defaultdict(int)
    for item, now in parts:
        found[names.programme(item.grant_id), names.funder(item.funder_id).code, now] += (
            item.amount_u
        )
    return [
        {"programme": programme, "funder": funder, "paid": _when(now), "amount_u": amount}
        for (programme, funder, now), amount in sorted(found.items())
    ]


def _when(now: bool) -> str:
    return "at once" if now else "later"


def _refunds(session: Session, org_id: str, from_us: int, until_us: int) -> list[Row]:
    query = (
        select(Refund, RefundLeg, UsageEvent.listing)
        .join(RefundLeg, col(RefundLeg.refund_id) == Refund.id)
        .join(UsageEvent, col(UsageEvent.id) == Refund.event_id)
        .where(UsageEvent.org_id == org_id, Refund.at_us >= from_us, Refund.at_us < until_us)
        .order_by(col(Refund.at_us), col(Refund.id), col(RefundLeg.leg))
    )
    return [
        {
            "refund": refund.id,
            "call": refund.event_id,
            "listing": listing,
            "at": to_iso(refund.at_us),
            "to": _refunded_to(session, leg),
            "amount_u": leg.amount_u if _is_money(session, leg) else leg.covered_u,
            "reason": refund.reason,
        }
        for refund, leg, listing in session.exec(query)
    ]


def _refunded_to(session: Session, leg: RefundLeg) -> str:
    """Return where it went, and of a quota how many units that were."""
    if not leg.grant_id:
        return "wallet"
    words = f"voucher {leg.grant_id}"
    if _is_money(session, leg):
        return words
    return f"{words}: {leg.amount_u} {session.get_one(Grant, leg.grant_id).unit}"


def _is_money(session: Session, leg: RefundLeg) -> bool:
    return not leg.grant_id or session.get_one(Grant, leg.grant_id).unit == CNY


def _expiring(session: Session, org_id: str, at_us: int) -> list[Row]:
    """Return vouchers that end within 30 days and still hold money, the soonest first."""
    query = (
        select(Grant)
        .where(Grant.org_id == org_id, Grant.state == "active", Grant.unit == CNY)
        .where(Grant.expires_at_us > at_us, Grant.expires_at_us <= at_us + 30 * DAY_US)
        .order_by(col(Grant.expires_at_us), col(Grant.id))
    )
    grants = session.exec(query).all()
    balances = totals(session, [grant.account_id for grant in grants])
    names = Names(session)
    return [
        {
            "voucher": grant.id,
            "programme": names.programme(grant.id),
            "left_u": balances[grant.account_id].available,
            "expires_at": to_iso(grant.expires_at_us),
            "within_days": 7 if grant.expires_at_us <= at_us + 7 * DAY_US else 30,
        }
        for grant in grants
        if balances[grant.account_id].available > 0
    ]
