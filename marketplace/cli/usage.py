"""`tokenmart usage`: what was called, what it cost, who paid."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlmodel import Session, col, select

from catalog.ground.clock import to_iso
from catalog.ground.units import format_yuan
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.gateway.endpoints import describe
from marketplace.ledger.tables import UsageEvent
from marketplace.members.keys import organisation
from marketplace.members.tables import Organisation
from marketplace.settings import Settings


def usage(
    org: Annotated[str | None, typer.Option(help="one organisation's slug")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="how many, newest first")] = 20,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show calls, newest first, with tokens, cost and the vouchers that paid."""
    with Settings().database.reading() as session:
        query = select(UsageEvent).order_by(col(UsageEvent.ended_at_us).desc()).limit(limit)
        if org is not None:
            query = query.where(UsageEvent.org_id == organisation(session, org).id)
        rows = [_row(session, event, form) for event in session.exec(query)]
    show(rows, form)
    if form == Format.TABLE and rows:
        say("¥ are exact to the micro-yuan. One call in full: GET /v1/generation/{id}")


def _row(session: Session, event: UsageEvent, form: Format) -> dict[str, Any]:
    told = describe(session, event)
    if form == Format.JSON:
        return told
    paid = (
        f"{part.get('programme', part['account'].partition(':')[0])} "
        + (
            format_yuan(part["amount"])
            if part["unit"] == "CNY"
            else f"{part['amount']} {part['unit']}"
        )
        for part in told["paid_by"]
    )
    return {
        "at": to_iso(event.ended_at_us)[:19],
        "organisation": session.get_one(Organisation, event.org_id).slug,
        "model": event.listing,
        "outcome": event.outcome,
        "tokens_in": event.input_uncached + event.cache_read + event.cache_write,
        "tokens_out": event.output + event.reasoning,
        "cost": format_yuan(event.cost_u),
        "paid_by": ", ".join(paid) or "nobody",
        "generation": event.id,
    }
