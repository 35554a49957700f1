"""Periods by name, in Beijing time: `2026`, `2026-Q1`, `2026-01`."""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

from catalog.ground.clock import from_datetime, zone
from catalog.ground.errors import BadRequest

_NAME = re.compile(r"(2[0-9]{3})(?:-(?:Q([1-4])|(0[1-9]|1[0-2])))?")


class Period(NamedTuple):
    """A period of calls: from `from_us` on, before `until_us`."""

    name: str
    from_us: int
    until_us: int


def period(name: str) -> Period:
    """Return the period called so; `BadRequest` for a name of none."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise BadRequest(
            f"{name!r} is not a period.",
            rule="period.format",
            param="period",
            remedy="Write 2026, 2026-Q1 or 2026-01.",
        )
    year, quarter, month = (int(part) if part else None for part in found.groups())
    assert year is not None
    if quarter is not None:
        first, months = 3 * quarter - 2, 3
    else:
        first, months = (month, 1) if month else (1, 12)
    return Period(name, _month_us(year, first), _month_us(year, first + months))


def month(name: str) -> Period:
    """Return the month called so, such as `2026-01`; `BadRequest` for anything else."""
    found = _NAME.fullmatch(name)
    if found is None or found[3] is None:
        raise BadRequest(
            f"{name!r} is not a month.",
            rule="period.format",
            param="period",
            remedy="Write it like 2026-01.",
        )
    return period(name)


def _month_us(year: int, month: int) -> int:
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return from_datetime(datetime(year, month, 1, tzinfo=zone))
