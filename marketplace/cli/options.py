"""Options that several commands share: who acts, days in Beijing time, evidence."""

from __future__ import annotations

import getpass
import hashlib
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from catalog.ground.clock import DAY_US, from_datetime, to_datetime, zone
from catalog.ground.errors import BadRequest


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "operator"


ByOption = Annotated[
    str,
    typer.Option(
        "--by",
        envvar="TOKENMART_ACTOR",
        default_factory=_user,
        show_default="you",
        help="who does this, for the record",
    ),
]


def day_start_us(text: str | None) -> int | None:
    """Return the first instant of a day (`2026-01-31`) in Beijing, None for None."""
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise BadRequest(
            f"{text!r} is not a day.", rule="day.format", remedy="Write it like 2026-01-31."
        ) from None
    return from_datetime(datetime(day.year, day.month, day.day, tzinfo=zone))


def day_end_us(text: str | None) -> int | None:
    """Return the first instant after a day in Beijing: people name the last day that counts."""
    start_us = day_start_us(text)
    return None if start_us is None else start_us + DAY_US


def day_of(at_us: int | None) -> str:
    """Return the day in Beijing that an instant lies in, '' for None."""
    return "" if at_us is None else to_datetime(at_us).astimezone(zone).date().isoformat()


def last_day_of(end_us: int | None) -> str:
    """Return the last day before an exclusive end, '' for None."""
    return "" if end_us is None else day_of(end_us - 1)


def evidence_of(path: Path) -> tuple[str, str]:
    """Return the sha256 of a document's bytes, and its name. The document stays where it is."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest(), path.name
    except OSError as error:
        raise BadRequest(
            f"The evidence {str(path)!r} cannot be read: {error.strerror}.", rule="fact.evidence"
        ) from None
