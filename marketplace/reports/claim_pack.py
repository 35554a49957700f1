"""The claim pack: what one funder is asked to pay, line by line, with everything an auditor asks for.

The cover carries three numbers that must be one: the sum of the lines, the claim's total and what the
ledger moved when the claim was drafted; and the hashes that say which lines and which journal they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.clock import to_iso
from catalog.listings.tables import Listing
from marketplace.ledger.reading import Paid, legs_of, moved
from marketplace.ledger.tables import UsageEvent
from marketplace.members.tables import Organisation
from marketplace.reports.sheets import Report, Row, sheet
from marketplace.reports.sources import Names, archived, heads
from marketplace.vouchers.claims import claim, lines, lines_sha256
from marketplace.vouchers.granting import contract_of
from marketplace.vouchers.knowledge import org_facts
from marketplace.vouchers.tables import Claim, ClaimLine, Grant

_PAGE = 400


def claim_pack(session: Session, claim_id: str, at_us: int) -> Report:
    """Return the pack of a claim: cover, lines, and sums by organisation and by region."""
    row = claim(session, claim_id)
    found = lines(session, claim_id)
    told = [line for page in _pages(found) for line in _lines(session, page)]
    body = sheet("lines", told)
    names = Names(session)
    funder = names.funder(row.funder_id)
    total_u = sum(line.amount_u for line in found)
    booked_u = sum(m.amount for m in moved(session, f"claim:{row.id}:draft"))
    cover: dict[str, Any] = {
        "claim": row.id,
        "programme": names.programme(found[0].grant_id),
        "funder": funder.code,
        "funder_level": funder.level,
        "period": row.period,
        "from": to_iso(row.from_us),
        "until": to_iso(row.until_us),
        "state": row.state,
        "lines": len(found),
        "total_u": total_u,
        "claim_total_u": row.total_u,
        "ledger_total_u": booked_u,
        "sums_agree": total_u == row.total_u == booked_u,
        "allowed_u": row.allowed_u,
        "disallowed_u": row.disallowed_u,
        "evidence": json.loads(row.evidence),
        "lines_sha256": lines_sha256(found),
        "submitted_sha256": row.sha256,
        "lines_csv_sha256": hashlib.sha256(body.csv()).hexdigest(),
        "drafted_by": row.drafted_by,
        "submitted_by": row.submitted_by,
        "audited_by": row.audited_by,
        "settled_by": row.settled_by,
        "bank_ref": row.bank_ref,
        "made_at": to_iso(at_us),
    }
    cover |= {f"chain_head {name}": head for name, head in heads(session).items()}
    by_org = sheet("by_organisation", _sums(told, ("organisation", "organisation_name", "uscc")))
    return Report("Claim pack", cover, (body, by_org, sheet("by_region", _sums(told, ("region",)))))


def _pages(found: Sequence[ClaimLine]) -> list[Sequence[ClaimLine]]:
    return [found[i : i + _PAGE] for i in range(0, len(found), _PAGE)]


def _lines(session: Session, found: Sequence[ClaimLine]) -> list[Row]:
    ids = {line.event_id for line in found}
    events = {
        event.id: event
        for event in session.exec(select(UsageEvent).where(col(UsageEvent.id).in_(ids)))
    }
    if ids - events.keys():
        raise archived("Some of this claim")
    legs = {
        (event_id, leg.leg): leg
        for event_id, paid in legs_of(session, sorted(ids)).items()
        for leg in paid
    }
    listings = {
        listing.slug: listing
        for listing in session.exec(
            select(Listing).where(col(Listing.slug).in_({e.listing for e in events.values()}))
        )
    }
    return [
        _line(session, line, events[line.event_id], legs[line.event_id, line.leg], listings)
        for line in found
    ]


def _line(
    session: Session,
    line: ClaimLine,
    event: UsageEvent,
    leg: Paid,
    listings: dict[str, Listing],
) -> Row:
    org = session.get_one(Organisation, line.org_id)
    grant = session.get_one(Grant, line.grant_id)
    listing = listings.get(event.listing)
    # Facts as they were when the call ended: a later move to another region changes no claim.
    region = org_facts(session, org.id, event.ended_at_us).facts.get("org.region", "")
    return {
        "line": line.n,
        "state": line.state,
        "call": event.id,
        "leg": line.leg,
        "refund": line.refund_id,
        "ended_at": to_iso(event.ended_at_us),
        "organisation": org.slug,
        "organisation_name": org.name,
        "uscc": org.uscc or "",
        "region": region,
        "listing": event.listing,
        "filing_number": (listing.filing_number if listing else "") or "",
        "voucher": grant.id,
        "contract": contract_of(session, grant),
        "input_uncached": event.input_uncached,
        "cache_read": event.cache_read,
        "cache_write": event.cache_write,
        "output": event.output,
        "reasoning": event.reasoning,
        "price_version": event.price_version_id,
        "list_cost_u": event.list_cost_u,
        "cost_u": event.cost_u,
        "voucher_u": leg.amount,
        "ratio_bp": leg.amount * 10_000 // event.cost_u if event.cost_u else 0,
        "this_funder_u": line.amount_u,
        "other_funders_u": 0 if line.refund_id else leg.amount - line.amount_u,
        "self_pay_u": event.wallet_u,
        "request_sha256": event.request_sha256,
        "metering_sha256": hashlib.sha256(event.raw_usage.encode()).hexdigest(),
    }


def _sums(told: Sequence[Row], by: tuple[str, ...]) -> list[Row]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in told:
        key = tuple(line[name] for name in by)
        into = found.setdefault(
            key, dict(zip(by, key, strict=True)) | {"lines": 0, "this_funder_u": 0}
        )
        into["lines"] += 1
        into["this_funder_u"] += line["this_funder_u"]
    return [found[key] for key in sorted(found)]


__all__ = ["Claim", "claim_pack"]
