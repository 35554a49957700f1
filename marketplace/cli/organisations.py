"""`tokenmart org`: who calls, publishes and funds."""

from __future__ import annotations

import typer
from sqlmodel import select

from catalog.ground.clock import now_us, to_iso
from marketplace.cli.output import Format, FormatOption, show
from marketplace.members.keys import create_organisation
from marketplace.members.tables import Organisation
from marketplace.settings import Settings

app = typer.Typer(help="Organisations.", no_args_is_help=True)


@app.command("create")
def create(slug: str, name: str, form: FormatOption = Format.TABLE) -> None:
    """Add an organisation."""
    with Settings().database.session() as session:
        made = create_organisation(session, slug, name, now_us())
        show([{"id": made.id, "slug": made.slug, "name": made.name}], form)


@app.command("list")
def list_(form: FormatOption = Format.TABLE) -> None:
    """List organisations."""
    with Settings().database.reading() as session:
        rows = [
            {
                "slug": org.slug,
                "name": org.name,
                "status": org.status,
                "since": to_iso(org.created_at_us)[:10],
                "id": org.id,
            }
            for org in session.exec(select(Organisation))
        ]
    show(rows, form)
