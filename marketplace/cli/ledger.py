"""`tokenmart ledger`: prove that every micro-yuan is where it should be."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from catalog.ground.database import Database
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.ledger.verify import verify
from marketplace.settings import Settings

app = typer.Typer(help="The ledger.", no_args_is_help=True)
_SHOWN = 50


@app.command("verify")
def verify_(
    url: Annotated[str, typer.Option(help="another database, such as a copy")] = "",
    form: FormatOption = Format.TABLE,
) -> None:
    """Replay the journal, recompute every balance, walk the hash chains. Exit 1 when something is off."""
    database = Database(url) if url else Settings().database
    progress = _progress if sys.stderr.isatty() else lambda _rows: None
    report = verify(database, progress)
    row = {
        "transfers": report.transfers,
        "events": report.events,
        "batches": report.batches,
        "accounts": report.accounts,
        "open_holds": report.open_holds,
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


def _progress(rows: int) -> None:
    print(f"\r{rows:,} rows", end="", file=sys.stderr)
