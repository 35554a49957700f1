"""Usage as FOCUS 1.2 rows (the FinOps Open Cost and Usage Specification), for tools that read those.

A call is one Usage row at its full price, and each voucher leg a Credit row that takes its part off
again, so the BilledCost of all rows sums to what the organisation paid itself. Amounts are decimals in
CNY with six places, exact. `x_` columns are ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlmodel import Session

from catalog.ground.clock import to_iso
from catalog.ground.units import YUAN_U
from marketplace.ledger.reading import events_of
from marketplace.ledger.tables import UsageEvent
from marketplace.members.tables import Organisation, Project
from marketplace.reports.sheets import Report, sheet
from marketplace.reports.sources import FunderPart, Names, Period, funder_parts, refuse_archived

COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_Generation",
    "x_Funder",
    "x_Programme",
)
_PAGE = 400


def focus(session: Session, org: Organisation, period: Period, at_us: int) -> Report:
    """Return the rows of an organisation's period. The cover proves their sum."""
    refuse_archived(session, period)
    rows = []
    wallet_u = 0
    billed_u = 0
    for page in _pages(session, org.id, period):
        parts = funder_parts(session, page)
        for event in page:
            wallet_u += event.wallet_u
            for row, amount_u in _rows(session, org, event, parts, period):
                rows.append(row)
                billed_u += amount_u
    cover = {
        "organisation": org.slug,
        "specification": "FOCUS 1.2",
        "period": period.name,
        "rows": len(rows),
        "billed_u": billed_u,
        "wallet_u": wallet_u,
        "sums_agree": billed_u == wallet_u,
        "made_at": to_iso(at_us),
    }
    return Report("FOCUS", cover, (sheet("focus", rows, COLUMNS),))


def _pages(session: Session, org_id: str, period: Period) -> Iterator[list[UsageEvent]]:
    page: list[UsageEvent] = []
    for event in list(events_of(session, [org_id], period.from_us, period.until_us)):
        page.append(event)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page


def _rows(
    session: Session,
    org: Organisation,
    event: UsageEvent,
    parts: Sequence[FunderPart],
    period: Period,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the call's rows, each with the micro-yuan that it bills."""
    project = session.get(Project, event.project_id) if event.project_id else None
    owner = session.get(Organisation, event.owner_org_id)
    common: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "BillingAccountId": org.id,
        "BillingAccountName": org.name,
        "BillingCurrency": "CNY",
        "BillingPeriodStart": to_iso(period.from_us),
        "BillingPeriodEnd": to_iso(period.until_us),
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": to_iso(event.started_at_us),
        "ChargePeriodEnd": to_iso(event.ended_at_us),
        "InvoiceIssuerName": "TokenMart",
        "ProviderName": "TokenMart",
        "PublisherName": owner.name if owner else event.owner_org_id,
        "ResourceId": event.listing,
        "ResourceName": event.listing,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Model inference",
        "SkuId": event.listing,
        "SkuPriceId": event.price_version_id,
        "SubAccountId": event.project_id or None,
        "SubAccountName": project.name if project else None,
        "x_Generation": event.id,
    }
    yield common | _usage(event), event.cost_u
    taken_u = event.cost_u - event.wallet_u
    left_u = taken_u
    for name, tags, amount_u in _credits(session, event, parts):
        credited_u = min(amount_u, left_u)
        if credited_u:
            left_u -= credited_u
            yield common | _credit(name, tags, credited_u), -credited_u
    if left_u:
        # What quotas counted in tokens or requests gave, or the platform bore.
        yield common | _credit("platform", {"funder": "platform"}, left_u), -left_u


def _usage(event: UsageEvent) -> dict[str, Any]:
    tokens = event.input_uncached + event.cache_read + event.cache_write
    tokens += event.output + event.reasoning
    cost = _yuan(event.cost_u)
    return {
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{event.listing}: {tokens} tokens",
        "ConsumedQuantity": tokens,
        "ConsumedUnit": "Tokens",
        "PricingQuantity": tokens,
        "PricingUnit": "Tokens",
        "ListCost": _yuan(event.list_cost_u),
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "BilledCost": cost,
        "Tags": "{}",
    }


def _credit(name: str, tags: Mapping[str, str], amount_u: int) -> dict[str, Any]:
    amount = _yuan(-amount_u)
    return {
        "ChargeCategory": "Credit",
        "ChargeDescription": f"Paid by {name}",
        "ListCost": _yuan(0),
        "ContractedCost": amount,
        "EffectiveCost": amount,
        "BilledCost": amount,
        "Tags": json.dumps(tags, ensure_ascii=False),
        "x_Funder": tags.get("funder"),
        "x_Programme": tags.get("programme"),
    }


def _credits(
    session: Session, event: UsageEvent, parts: Sequence[FunderPart]
) -> Iterator[tuple[str, dict[str, str], int]]:
    """Yield what paid the call now, by programme and funder; what is paid back later is no credit yet."""
    names = Names(session)
    for item, now in parts:
        if item.event_id == event.id and now:
            funder = names.funder(item.funder_id).code
            programme = names.programme(item.grant_id)
            tags = {"programme": programme, "funder": funder, "voucher": item.grant_id}
            yield f"{funder} ({programme})", tags, item.amount_u


def _yuan(amount_u: int) -> str:
    sign = "-" if amount_u < 0 else ""
    yuan, micro = divmod(abs(amount_u), YUAN_U)
    return f"{sign}{yuan}.{micro:06d}"
