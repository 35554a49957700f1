"""`tokenmart price`: what calls cost, from when on, and what a new price would change."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlmodel import Session

from catalog.ground.clock import now_us, to_iso
from catalog.ground.errors import BadRequest
from marketplace.cli.options import ByOption, day_start_us
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.prices import drafts, service
from marketplace.prices.components import Components, parse_components
from marketplace.prices.tables import PriceVersion
from marketplace.settings import Settings

app = typer.Typer(help="Prices: dated versions that never change.", no_args_is_help=True)
draft_app = typer.Typer(help="Proposed and imported prices; they cost nobody anything.")
app.add_typer(draft_app, name="draft")

Listing = Annotated[str, typer.Argument(help="the listing's slug")]
FileOption = Annotated[
    Path | None, typer.Option("--file", exists=True, help="the price as JSON components")
]
DraftOption = Annotated[str | None, typer.Option("--draft", help="the id of a draft")]


@app.command("diff")
def diff(
    listing: Listing,
    file: FileOption = None,
    draft: DraftOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what a new price would change against the one in force."""
    with Settings().database.reading() as session:
        _show_diff(session, listing, _proposed(session, listing, file, draft), form)


@app.command("publish")
def publish(
    listing: Listing,
    by: ByOption,
    reason: Annotated[str, typer.Option(help="why, for the record")],
    file: FileOption = None,
    draft: DraftOption = None,
    since: Annotated[
        str | None, typer.Option("--from", help="first day (Beijing) that it is charged; else now")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Publish a price, after showing what it changes. Nobody can change it afterwards."""
    database = Settings().database
    with database.reading() as session:
        components = _proposed(session, listing, file, draft)
        _show_diff(session, listing, components, form)
    if not yes:
        typer.confirm("Publish this price?", abort=True, err=True)
    at_us = now_us()
    from_us = day_start_us(since) or at_us
    with database.session() as session:
        if draft is not None:
            made = drafts.publish_draft(session, draft, from_us, by, reason, at_us)
        else:
            made = service.publish_price(session, listing, components, from_us, by, reason, at_us)
        say(f"published {made.id}, in force from {to_iso(made.effective_from_us)}")


@app.command("list")
def list_(
    listing: Annotated[str | None, typer.Option(help="one listing's slug")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List published versions, by listing and date."""
    with Settings().database.reading() as session:
        show([_row(version) for version in service.versions_of(session, listing)], form)


@app.command("show")
def show_(version: Annotated[str, typer.Argument(help="the version's id")]) -> None:
    """Print one version as JSON, after checking its sha256."""
    with Settings().database.reading() as session:
        found = service.version(session, version)
        print(json.dumps(_row(found) | {"components": json.loads(found.components)}, indent=2))


@draft_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, help="{model: price} as JSON")],
    by: ByOption,
    prefix: Annotated[str, typer.Option(help="put before each model's name, as maker/")] = "",
    cny_per_usd: Annotated[
        str | None, typer.Option(help="exchange rate, for cost maps in dollars a token")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Import a price list as drafts. Nothing is charged until a draft is published."""
    prices = drafts.read_prices(file.read_text(), _decimal(cny_per_usd))
    with Settings().database.session() as session:
        made = [
            drafts.add_draft(session, prefix + model, price, file.name, by, now_us())
            for model, price in prices.items()
        ]
        show([{"draft": d.id, "listing": d.listing, "sha256": d.sha256[:12]} for d in made], form)
    say(f"{len(made)} drafts; see one with: tokenmart price diff LISTING --draft ID")


@draft_app.command("list")
def list_drafts(
    listing: Annotated[str | None, typer.Option(help="one listing's slug")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List drafts that were not published."""
    with Settings().database.reading() as session:
        rows = [
            {"draft": d.id, "listing": d.listing, "source": d.source, "components": d.components}
            for d in drafts.drafts(session, listing)
        ]
    show(rows, form)


def _proposed(session: Session, listing: str, file: Path | None, draft: str | None) -> Components:
    if (file is None) == (draft is None):
        raise BadRequest("Give either --file or --draft.", rule="price.proposed")
    if file is not None:
        return parse_components(file.read_bytes())
    found = drafts.draft(session, draft or "")
    if found.listing != listing:
        raise BadRequest(f"{draft} is a price for {found.listing}.", rule="price.draft")
    return parse_components(found.components)


def _show_diff(session: Session, listing: str, components: Components, form: Format) -> None:
    changes = service.compare(session, listing, components, now_us())
    if form == Format.JSON:
        show([{"field": c.field, "old_u": c.old_u, "new_u": c.new_u} for c in changes], form)
        return
    for change in changes:
        print(change.text)
    if not changes:
        say("nothing would change")


def _row(version: PriceVersion) -> dict[str, Any]:
    return {
        "version": version.id,
        "listing": version.listing,
        "from": to_iso(version.effective_from_us)[:19] if version.effective_from_us else "",
        "to": "" if version.effective_to_us is None else to_iso(version.effective_to_us)[:19],
        "author": version.author,
        "reason": version.reason,
        "sha256": version.sha256[:12],
    }


def _decimal(text: str | None) -> Decimal | None:
    try:
        rate = None if text is None else Decimal(text)
    except InvalidOperation:
        rate = Decimal(0)
    if rate is not None and not (rate.is_finite() and rate > 0):
        raise BadRequest(f"{text!r} is not an exchange rate.", rule="price.currency")
    return rate
