"""A listing owner's month: what its models earned, the platform's fee, and what waits for funders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.clock import to_iso
from marketplace.ledger.chart import Code, owner_available, owner_unsettled
from marketplace.ledger.reading import fees_of, journal_balance_u
from marketplace.ledger.tables import UsageEvent
from marketplace.members.organisations import masked_uscc
from marketplace.members.tables import Organisation
from marketplace.reports.sheets import Report, Row, sheet
from marketplace.reports.sources import flows, heads, month, refuse_archived


def owner_statement(session: Session, org: Organisation, name: str, at_us: int) -> Report:
    """Return the statement of a month. Gross less fee is what the ledger accrued, to the micro-yuan."""
    period = month(name)
    refuse_archived(session, period)
    events = _events(session, org.id, period.from_us, period.until_us)
    fees = fees_of(session, [event.id for event in events])
    rows = _by_listing(events, fees)
    gross_u = sum(event.cost_u for event in events)
    fee_u = sum(fees.values())
    during = flows(session, owner_unsettled(org.id), period.from_us, period.until_us)
    accrued_u = during.into.get(Code.ACCRUE, 0)
    cover: dict[str, Any] = {
        "organisation": org.slug,
        "name": org.name,
        "uscc": masked_uscc(org),
        "month": name,
        "calls": len(events),
        "gross_u": gross_u,
        "fee_u": fee_u,
        "net_u": gross_u - fee_u,
        "ledger_accrued_u": accrued_u,
        "refunded_u": during.out.get(Code.REFUND, 0),
        "disallowed_u": during.out.get(Code.DISALLOW, 0) + during.out.get(Code.CLAWBACK, 0),
        "matured_u": during.out.get(Code.MATURE, 0),
        "unsettled_now_u": journal_balance_u(session, owner_unsettled(org.id)),
        "available_now_u": journal_balance_u(session, owner_available(org.id)),
        "sums_agree": gross_u - fee_u == accrued_u,
        "made_at": to_iso(at_us),
    }
    cover |= {f"chain_head {lane}": head for lane, head in heads(session).items()}
    return Report("Owner statement", cover, (sheet("by_listing", rows),))


def _events(session: Session, org_id: str, from_us: int, until_us: int) -> Sequence[UsageEvent]:
    ended = col(UsageEvent.ended_at_us)
    query = select(UsageEvent).where(
        UsageEvent.owner_org_id == org_id, ended >= from_us, ended < until_us
    )
    return session.exec(query.order_by(ended, col(UsageEvent.id))).all()


def _by_listing(events: Sequence[UsageEvent], fees: dict[str, int]) -> list[Row]:
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        row = found.setdefault(
            event.listing,
            {
                "listing": event.listing,
                "calls": 0,
                "customers": set(),
                "gross_u": 0,
                "fee_u": 0,
                "net_u": 0,
                "from_vouchers_u": 0,
                "from_wallets_u": 0,
                "from_platform_u": 0,
            },
        )
        fee_u = fees.get(event.id, 0)
        row["calls"] += 1
        row["customers"].add(event.org_id)
        row["gross_u"] += event.cost_u
        row["fee_u"] += fee_u
        row["net_u"] += event.cost_u - fee_u
        row["from_vouchers_u"] += event.voucher_u
        row["from_wallets_u"] += event.wallet_u
        row["from_platform_u"] += event.free_u + event.overrun_u
    return [found[name] | {"customers": len(found[name]["customers"])} for name in sorted(found)]
