"""What time it is. Whoever needs the time takes a `Clock`, so that a test can set it.

Instants are integer microseconds since 1970-01-01T00:00:00Z (`*_at_us`): they sort, they fit a BIGINT
on both databases and no time zone can be lost on the way. Calendar rules (a voucher's "day") are made
in the operator's zone, see `zone`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

Clock = Callable[[], int]
"""Returns now, in microseconds since the Unix epoch."""

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

zone = ZoneInfo("Asia/Shanghai")
"""Public programmes count days, months and years in Beijing time."""


def now_us() -> int:
    """Return the wall clock, in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def to_datetime(at_us: int) -> datetime:
    """Return the instant as an aware UTC datetime."""
    return datetime.fromtimestamp(at_us / SECOND_US, UTC)


def from_datetime(moment: datetime) -> int:
    """Return the instant in microseconds; a naive datetime is refused, its zone being a guess."""
    if moment.tzinfo is None:
        raise ValueError("a naive datetime has no instant: give it a time zone")
    delta = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * SECOND_US + delta.microseconds


def to_iso(at_us: int) -> str:
    """Return `2026-01-31T08:00:00.000Z`: the one form that every Hugging Face client parses."""
    return to_datetime(at_us).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_us // 1000 % 1000:03d}Z"


class SetClock:
    """A clock that stands still until it is moved; for tests and for replays."""

    def __init__(self, at_us: int) -> None:
        self.at_us = at_us

    def __call__(self) -> int:
        return self.at_us

    def advance(self, delta_us: int) -> None:
        """Move forward by `delta_us` (backward when negative: clocks do jump)."""
        self.at_us += delta_us
