"""`tokenmart endpoint`: where listings are served."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlmodel import col, select

from catalog.ground.clock import now_us, to_iso
from catalog.ground.errors import NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint
from marketplace.settings import Settings

app = typer.Typer(help="Engines that answer for listings.", no_args_is_help=True)


@app.command("add")
def add(
    listing: Annotated[str, typer.Argument(help="publisher/name")],
    url: Annotated[str, typer.Argument(help="the engine's address, without /v1")],
    model: Annotated[
        str, typer.Option(help="the name the engine knows (default: the listing)")
    ] = "",
    api_key: Annotated[
        str, typer.Option(envvar="TOKENMART_ENGINE_KEY", help="key that the engine asks for")
    ] = "",
    weight: Annotated[int, typer.Option(min=0)] = 1,
    priority: Annotated[int, typer.Option(min=0, help="lower is tried first")] = 0,
    form: FormatOption = Format.TABLE,
) -> None:
    """Route a listing to an engine. Gateways use it within half a second."""
    with Settings().database.session() as session:
        made = Endpoint(
            id=new_id("ept"),
            listing=listing,
            url=url.rstrip("/").removesuffix("/v1"),
            model=model or listing,
            api_key=api_key,
            weight=weight,
            priority=priority,
            updated_at_us=now_us(),
        )
        session.add(made)
        session.flush()
        raise_marker(session, ENDPOINTS)
        show([{"id": made.id, "listing": listing, "url": made.url}], form)


@app.command("list")
def list_(form: FormatOption = Format.TABLE) -> None:
    """List engines."""
    with Settings().database.reading() as session:
        found = session.exec(select(Endpoint).order_by(col(Endpoint.listing)))
        rows = [
            {
                "id": e.id,
                "listing": e.listing,
                "url": e.url,
                "state": e.state,
                "weight": e.weight,
                "priority": e.priority,
                "since": to_iso(e.updated_at_us),
            }
            for e in found
        ]
    show(rows, form)


@app.command("remove")
def remove(endpoint: Annotated[str, typer.Argument(help="id that `endpoint list` shows")]) -> None:
    """Take an engine out of routing; calls that run there end undisturbed."""
    with Settings().database.session() as session:
        found = session.get(Endpoint, endpoint)
        if found is None:
            raise NotFound(f"There is no endpoint {endpoint!r}.")
        session.delete(found)
        session.flush()
        raise_marker(session, ENDPOINTS)
    say(f"removed {endpoint}")
