"""`tokenmart artifact`: the operator's look at what is stored; needs the store, but no server."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from marketplace.cli.output import Format, FormatOption, say, show

if TYPE_CHECKING:
    from catalog.artifacts.store import ArtifactStore
    from catalog.ground.database import Database

artifact_app = typer.Typer(
    help="Stored files: collect garbage, scrub, usage.", no_args_is_help=True
)


def _opened() -> tuple[Database, ArtifactStore]:
    from catalog.artifacts.store import open_store
    from marketplace.settings import Settings

    settings = Settings()
    data = settings.data_dir
    place = settings.artifacts_url or str(data / "artifacts")
    return settings.database, open_store(place, spool=data / "spool")


@artifact_app.command("collect")
def collect(
    grace_hours: Annotated[float, typer.Option(help="between condemning and removing")] = 1.0,
    form: FormatOption = Format.TABLE,
) -> None:
    """Remove what no branch, tag, pull request, release or upload refers to. Safe beside a server."""
    from catalog.ground.clock import HOUR_US
    from catalog.hub.prune import sweep

    database, store = _opened()
    show([asdict(sweep(database, store, grace_us=int(grace_hours * HOUR_US)))], form)


@artifact_app.command("scrub")
def scrub(form: FormatOption = Format.TABLE) -> None:
    """Read every file again and check it, from the branches down. Exit 1 when anything is wrong."""
    from catalog.hub.scrub import scrub as look

    database, store = _opened()
    findings = look(database, store)
    if findings:
        show([asdict(finding) for finding in findings], form)
        sys.exit(1)
    say("everything that is referred to is whole")
    if form == Format.JSON:
        show([], form)


@artifact_app.command("usage")
def usage(form: FormatOption = Format.TABLE) -> None:
    """Show what each organisation keeps, every file counted once."""
    from sqlalchemy import select
    from sqlmodel import col

    from catalog.artifacts.registry import used_bytes
    from catalog.artifacts.tables import Holding

    database, _ = _opened()
    with database.reading() as session:
        accounts = session.scalars(select(col(Holding.account)).distinct()).all()
        rows = [
            {"organisation": account, "used_bytes": used_bytes(session, account)}
            for account in sorted(accounts)
        ]
    show(rows, form)
