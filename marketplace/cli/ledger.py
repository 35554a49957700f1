"""`tokenmart ledger`: prove that every micro-yuan is where it should be, and move closed months out."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection, text
from sqlmodel import Session

from catalog.ground.clock import from_datetime, now_us, zone
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest
from catalog.ground.units import MAX_U
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.ledger.archive import archive
from marketplace.ledger.balances import EXPORTED, export, trial_balance
from marketplace.ledger.verify import verify
from marketplace.prices.components import Buckets, Components, cost_u, parse_components
from marketplace.settings import Settings
from marketplace.vouchers.proof import prove

app = typer.Typer(help="The ledger.", no_args_is_help=True)
_SHOWN = 50

UrlOption = Annotated[str, typer.Option(help="another database, such as a copy")]


@app.command("verify")
def verify_(
    url: UrlOption = "",
    archive_dir: Annotated[
        Path | None,
        typer.Option("--archive", help="folder of archive files, whose rows are replayed too"),
    ] = None,
    programmes: Annotated[
        bool, typer.Option(help="also prove programmes, claims and refunds against the journal")
    ] = True,
    form: FormatOption = Format.TABLE,
) -> None:
    """Replay the journal, recompute every balance, walk the hash chains. Exit 1 when something is off."""
    checks = [_programmes] if programmes else []
    report = verify(
        _database(url), _progress(), recost=recost, checks=checks, archive_dir=archive_dir
    )
    row = {
        "transfers": report.transfers,
        "events": report.events,
        "batches": report.batches,
        "accounts": report.accounts,
        "open_holds": report.open_holds,
        "archives": report.archives,
        "rows_per_s": round(report.rows_per_s),
        "problems": len(report.problems),
    }
    show([row], form)
    for problem in report.problems[:_SHOWN]:
        say(f"OFF: {problem}")
    if report.problems:
        say(f"The ledger is off in {len(report.problems)} places. Stop serving and look.")
        raise typer.Exit(1)
    say("The ledger is exact.")


@app.command("trial-balance")
def trial_balance_(url: UrlOption = "", form: FormatOption = Format.TABLE) -> None:
    """Print every account's debits and credits. Exit 1 when they are not equal in every unit."""
    balances = trial_balance(_database(url))
    show([balance._asdict() for balance in balances], form)
    off: dict[str, int] = {}
    for balance in balances:
        off[balance.unit] = off.get(balance.unit, 0) + balance.balance
    for unit, amount in off.items():
        say(f"{unit}: debits and credits {f'differ by {amount}' if amount else 'are equal'}")
    if any(off.values()):
        raise typer.Exit(1)


@app.command("export")
def export_(
    url: UrlOption = "",
    since: Annotated[str, typer.Option(help="first day, such as 2026-10-01 (Beijing)")] = "",
    until: Annotated[str, typer.Option(help="the day after the last (Beijing)")] = "",
    form: Annotated[str, typer.Option("--format", help="csv or json (a line each)")] = "csv",
) -> None:
    """Print the journal's transfers: amounts in micro-yuan or in the quota's unit."""
    rows = export(
        _database(url), _day_us(since) if since else 0, _day_us(until) if until else MAX_U
    )
    if form == "json":
        for row in rows:
            print(json.dumps(dict(zip(EXPORTED, row, strict=True)), ensure_ascii=False))
        return
    table = csv.writer(sys.stdout)
    table.writerow(EXPORTED)
    table.writerows(rows)


@app.command("archive")
def archive_(
    before: Annotated[str, typer.Option(help="first day to keep, such as 2026-10-01 (Beijing)")],
    to: Annotated[Path, typer.Option(help="folder for the archive file")],
    url: UrlOption = "",
    form: FormatOption = Format.TABLE,
) -> None:
    """Move older rows into a sealed file and keep their totals. Reports and claims read the rows that are
    left, so archive only months whose claims are settled and whose reports have been made."""
    before_us = _day_us(before)
    if before_us > now_us():
        raise BadRequest(f"{before} has not come yet.", rule="archive.before", param="before")
    made = archive(_database(url), before_us, to, recost=recost, progress=_progress())
    if made is None:
        say(f"Nothing is older than {before}.")
        return
    row = {"file": made.name, "transfers": made.transfers, "events": made.events}
    show([row | {"bytes": (to / made.name).stat().st_size, "sha256": made.sha256}], form)
    say(f"Keep the file. Its seal is {made.seal}.")


def recost(prices: str, buckets: tuple[int, int, int, int, int], at_us: int) -> int | None:
    """Return what an event costs by its frozen prices; None when pictures or seconds were charged.

    The ledger's events keep tokens only, so a price by picture or second cannot be checked from them.
    """
    components = _components(prices)
    if components.image_u or components.second_u:
        return None
    return cost_u(Buckets(*buckets), components, at_us=at_us)


@lru_cache(maxsize=1024)
def _components(prices: str) -> Components:
    return parse_components(prices)


def _programmes(connection: Connection) -> Iterable[str]:
    """Prove the vouchers' own books. They are read from the journal's rows, so those must be there."""
    if connection.execute(text("SELECT 1 FROM ledger_archive")).first() is not None:
        say("Programmes are not proven: rows that they need are archived.")
        return []
    return prove(Session(bind=connection))


def _database(url: str) -> Database:
    return Database(url) if url else Settings().database


def _day_us(day: str) -> int:
    try:
        return from_datetime(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=zone))
    except ValueError:
        raise BadRequest(
            f"{day!r} is not a day.", rule="date.format", remedy="Write 2026-10-01."
        ) from None


def _progress() -> _Progress:
    return _Progress(sys.stderr.isatty())


class _Progress:
    """Tells a person how far it is, and a log nothing."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def __call__(self, rows: int) -> None:
        if self._shown:
            print(f"\r{rows:,} rows", end="", file=sys.stderr)
