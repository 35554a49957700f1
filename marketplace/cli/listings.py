"""`tokenmart listing`: put something on the shelf, see where it stands, take it off.

    tokenmart listing init acme/writer --from listing.toml --card-zh card.zh.md
    tokenmart listing submit acme/writer
    tokenmart listing status acme/writer

Whoever has this command has the database, so it acts as the publisher and as the operator; the history
records the name given with `--by`, and four eyes are two names.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
from pydantic import BaseModel, ValidationError
from sqlmodel import col, select

from catalog.ground.clock import now_us, to_iso
from catalog.ground.errors import BadRequest
from catalog.listings import chain, records, service, shelf
from catalog.listings.actors import Actor
from catalog.listings.offer import is_on_offer
from catalog.listings.schemas import Filing, ListingDraft, ListingEdit
from catalog.listings.states import TRANSITIONS, Part
from catalog.listings.tables import Listing, ListingTransition
from catalog.search.document import SORTS, Query, Sort
from catalog.search.engine import SearchEngine
from marketplace.cli.options import ByOption
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.members.organisations import organisation
from marketplace.settings import Settings

listing_app = typer.Typer(help="Listings: what shoppers see.", no_args_is_help=True)

Slug = Annotated[str, typer.Argument(help="publisher/name")]
Reason = Annotated[str, typer.Option("--reason", help="why, for the record")]
From = Annotated[
    Path | None,
    typer.Option("--from", help="a TOML file of fields: title_zh, tier, vertical, …", exists=True),
]
CardZh = Annotated[Path | None, typer.Option(help="the Chinese card, Markdown", exists=True)]
CardEn = Annotated[Path | None, typer.Option(help="the English card, Markdown", exists=True)]
Kind = Annotated[str, typer.Option(help="model or agent")]

_EVERYTHING = frozenset({Part.DEVELOPER, Part.OWNER, Part.OPERATOR})
_Fields = TypeVar("_Fields", bound=BaseModel)


@listing_app.command("init")
def init(
    slug: Slug,
    by: ByOption,
    source: From = None,
    kind: Kind = "model",
    card_zh: CardZh = None,
    card_en: CardEn = None,
) -> None:
    """Make a draft. Without a file it is empty: fill it with `listing edit`."""
    fields = {"slug": slug, "kind": kind} | _fields(source, card_zh, card_en)
    draft = _validated(ListingDraft, fields)
    with Settings().database.session() as session:
        owner = organisation(session, service.publisher_of(slug)).id
        service.create(session, _actor(by), draft, owner_org=owner)
    say(f"{slug} is a draft. Next: tokenmart listing edit, then submit.")


@listing_app.command("edit")
def edit(
    slug: Slug, by: ByOption, source: From = None, card_zh: CardZh = None, card_en: CardEn = None
) -> None:
    """Change the working copy; fields that the file leaves out stay."""
    change = _validated(ListingEdit, _fields(source, card_zh, card_en))
    with Settings().database.session() as session:
        service.edit(session, _actor(by), slug, change)
    say(f"{slug} was edited.")


@listing_app.command("submit")
def submit(
    slug: Slug, by: ByOption, note: Annotated[str, typer.Option(help="what is new")] = ""
) -> None:
    """Hand the working copy in for review, as a new version."""
    _move(slug, "submit", by, note)


@listing_app.command("override")
def override(slug: Slug, by: ByOption, reason: Reason) -> None:
    """Pass a submission without a review (operator, not the submitter)."""
    _move(slug, "override", by, reason)


@listing_app.command("publish")
def publish(slug: Slug, by: ByOption) -> None:
    """Put an approved version on the shelf."""
    _move(slug, "list", by)


@listing_app.command("revise")
def revise(slug: Slug, by: ByOption) -> None:
    """Begin the next version; the listed one stays on offer meanwhile."""
    _move(slug, "revise", by)


@listing_app.command("suspend")
def suspend(slug: Slug, by: ByOption, reason: Reason) -> None:
    """Take it off the shelf at once."""
    _move(slug, "suspend", by, reason)


@listing_app.command("restore")
def restore(slug: Slug, by: ByOption, reason: Reason = "") -> None:
    """Put a suspended listing back."""
    _move(slug, "restore", by, reason)


@listing_app.command("delist")
def delist(slug: Slug, by: ByOption, reason: Reason) -> None:
    """Take it off the shelf for good; it may be reopened and reviewed anew."""
    _move(slug, "delist", by, reason)


@listing_app.command("deprecate")
def deprecate(
    slug: Slug,
    by: ByOption,
    reason: Reason,
    successor: Annotated[str | None, typer.Option(help="what to use instead")] = None,
) -> None:
    """Announce that it will go; it stays callable."""
    with Settings().database.session() as session:
        records.deprecate(session, _actor(by), slug, reason, successor=successor)
    say(f"{slug} is deprecated.")


@listing_app.command("filing")
def filing(
    slug: Slug,
    by: ByOption,
    route: Annotated[str, typer.Option(help="full, register, algorithm or none")],
    status: Annotated[str, typer.Option(help="granted, exempt, submitted_local, …")],
    reason: Reason,
    number: Annotated[str | None, typer.Option(help="the filing's number")] = None,
) -> None:
    """Record the state of the filing (备案)."""
    given = _validated(
        Filing, {"route": route, "status": status, "reason": reason, "number": number}
    )
    with Settings().database.session() as session:
        listing = records.record_filing(session, _actor(by), slug, given)
        say(f"{slug}: filing {listing.filing_status}; the listing is {listing.state}")


@listing_app.command("status")
def status(slug: Slug, form: FormatOption = Format.TABLE) -> None:
    """Show where a listing stands: its history, and what can come next."""
    with Settings().database.reading() as session:
        listing = service.find(session, slug)
        rows = [_event_row(row) for row in chain.history(session, listing.id)]
    nexts = sorted(t.event for t in TRANSITIONS.values() if listing.state in t.sources)
    on_offer = "on offer" if is_on_offer(listing, now_us()) else "not on offer"
    say(f"{slug} is {listing.state}, {listing.tier}, {on_offer}. Next: {', '.join(nexts)}")
    show(rows, form)


@listing_app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="only these")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List listings in any state."""
    wanted = select(Listing).order_by(col(Listing.slug))
    if state is not None:
        wanted = wanted.where(Listing.state == state)
    with Settings().database.reading() as session:
        show([_row(listing) for listing in session.exec(wanted)], form)


@listing_app.command("search")
def search(
    words: Annotated[list[str], typer.Argument(help="words, Chinese or English")],
    sort: Annotated[str, typer.Option(help=", ".join(SORTS))] = "relevance",
    vertical: Annotated[list[str] | None, typer.Option(help="only these (repeat)")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    form: FormatOption = Format.TABLE,
) -> None:
    """Search what is on offer."""
    filters = {"vertical": tuple(vertical)} if vertical else {}
    query = Query(" ".join(words), filters, sort=cast(Sort, sort), limit=limit)
    with Settings().database.reading() as session:
        page = SearchEngine().search(session, query)
        show([_row(service.find(session, slug)) for slug in page.keys], form)
    say(f"{page.total} found")


@listing_app.command("reindex")
def reindex() -> None:
    """Write the search index anew."""
    with Settings().database.session() as session:
        say(f"{shelf.rebuild(session, now_us())} listings are in the index")


@listing_app.command("verify")
def verify(form: FormatOption = Format.TABLE) -> None:
    """Check the chain of the history; exits 1 when it was touched."""
    with Settings().database.reading() as session:
        faults = list(chain.faults(session))
        count, head = chain.head(session)
    show([{"rows": count, "head": head, "faults": len(faults)}], form)
    for fault in faults:
        say(fault)
    if faults:
        raise typer.Exit(1)


def _actor(name: str) -> Actor:
    return Actor(name, _EVERYTHING)


def _move(slug: str, event: str, by: str, reason: str = "") -> None:
    with Settings().database.session() as session:
        listing = service.move(session, _actor(by), slug, event, reason=reason)
        say(f"{slug} is {listing.state}")


def _fields(source: Path | None, card_zh: Path | None, card_en: Path | None) -> dict[str, Any]:
    try:
        fields = {} if source is None else tomllib.loads(source.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{source} is not TOML: {error}.") from None
    for name, path in (("card_zh", card_zh), ("card_en", card_en)):
        if path is not None:
            fields[name] = path.read_text("utf-8")
    return fields


def _validated(kind: type[_Fields], fields: dict[str, Any]) -> _Fields:
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{where}: {first['msg']}.", param=where) from None


def _row(listing: Listing) -> dict[str, Any]:
    return {
        "slug": listing.slug,
        "kind": listing.kind,
        "title": listing.title_zh or listing.title_en,
        "vertical": listing.vertical,
        "tier": listing.tier,
        "state": listing.state,
        "version": listing.listed_version,
    }


def _event_row(row: ListingTransition) -> dict[str, Any]:
    return {
        "at": to_iso(row.at_us),
        "event": row.event,
        "state": row.to_state,
        "version": row.version,
        "by": row.actor,
        "as": row.acted_as,
        "reason": row.reason,
    }
