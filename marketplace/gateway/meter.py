"""What a worker counts: plain numbers, added up by the office and shown at `/metrics`."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from marketplace.gateway.money import Bill, Call

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the buckets of a latency histogram, seconds; the last bucket has none."""
_MOST_SERIES = 2_000


class Histogram(msgspec.Struct):
    """How often a latency fell into each bucket; `sum_s` is the sum of all."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def add(self, other: Histogram) -> None:
        """Count what another has counted."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s


class Meter(msgspec.Struct):
    """Counters since the worker started; durations are seconds, money micro-yuan, tokens tokens.

    `requests` is by (path, status), the usage counters by listing.
    """

    requests: dict[str, int] = msgspec.field(default_factory=dict)
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    calls: dict[str, int] = msgspec.field(default_factory=dict)
    input_tokens: dict[str, int] = msgspec.field(default_factory=dict)
    output_tokens: dict[str, int] = msgspec.field(default_factory=dict)
    cost_u: dict[str, int] = msgspec.field(default_factory=dict)
    routes: dict[str, int] = msgspec.field(default_factory=dict)
    chunks: int = 0
    voided: int = 0
    cancelled: int = 0
    estimated: int = 0
    hold_s: Histogram = msgspec.field(default_factory=Histogram)
    first_token_s: Histogram = msgspec.field(default_factory=Histogram)
    call_s: Histogram = msgspec.field(default_factory=Histogram)
    added_s: Histogram = msgspec.field(default_factory=Histogram)

    def answered(self, path: str, status: int) -> None:
        """Count an answered request."""
        _add(self.requests, f"{path} {status}", 1)

    def billed(self, call: Call, bill: Bill) -> None:
        """Count a settled call."""
        slug = call.record.listing.slug
        _add(self.calls, slug, 1)
        _add(self.input_tokens, slug, bill.used.input_tokens)
        _add(self.output_tokens, slug, call.output_tokens)
        _add(self.cost_u, slug, bill.cost_u)
        if call.why != "only":
            _add(self.routes, call.why, 1)
        self.cancelled += bill.outcome == "cancelled"
        self.estimated += bill.source != "engine"
        self.call_s.observe((bill.at_us - call.started_at_us) / 1e6)
        if call.first_token_us:
            self.first_token_s.observe(call.first_token_us / 1e6)

    def add(self, other: Meter) -> None:
        """Count what another worker has counted."""
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                for key, count in theirs.items():
                    _add(mine, key, count)
            elif isinstance(mine, Histogram):
                mine.add(theirs)
            else:
                setattr(self, name, mine + theirs)


class Now(msgspec.Struct):
    """How things stand in a worker at this moment."""

    running: int = 0
    connections: int = 0
    queued_ledger: int = 0
    waiting: dict[str, int] = msgspec.field(default_factory=dict)
    """Calls in the fair queue, by listing."""
    endpoints: list[Any] = msgspec.field(default_factory=list)


class Report(msgspec.Struct):
    """What a worker tells the office every second."""

    meter: Meter
    now: Now


def _add(counts: dict[str, int], key: str, count: int) -> None:
    known = counts.get(key)
    if known is None and len(counts) >= _MOST_SERIES:
        key = "other"  # names that callers choose must not fill the memory
        known = counts.get(key)
    counts[key] = (known or 0) + count
