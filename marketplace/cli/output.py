"""How commands print: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[
    Format, typer.Option("--format", help="table for people, json for programs")
]


def say(words: str) -> None:
    """Talk to the person, on standard error."""
    print(words, file=sys.stderr)


def show(rows: Sequence[Mapping[str, Any]], form: Format) -> None:
    """Print rows on standard output. A table's columns are the first row's keys."""
    if form == Format.JSON:
        json.dump(list(rows), sys.stdout, ensure_ascii=False, indent=2)
        print()
        return
    if not rows:
        say("nothing to show")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)
