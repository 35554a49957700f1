"""What a worker counts: plain numbers, added up by the office and shown at `/metrics`."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from marketplace.gateway.money import Bill, Call

BOUNDS_S = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
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


class Counters(msgspec.Struct):
    """Counters since the worker started; durations are seconds, money micro-yuan, tokens tokens.

    `requests` is by path and status, `failures` by endpoint and failure, `refused` by the error's code,
    `routes` by why, the usage counters by listing.
    """

    requests: dict[str, int] = msgspec.field(default_factory=dict)
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    calls: dict[str, int] = msgspec.field(default_factory=dict)
    input_tokens: dict[str, int] = msgspec.field(default_factory=dict)
    output_tokens: dict[str, int] = msgspec.field(default_factory=dict)
    cost_u: dict[str, int] = msgspec.field(default_factory=dict)
    routes: dict[str, int] = msgspec.field(default_factory=dict)
    failures: dict[str, int] = msgspec.field(default_factory=dict)
    chunks: int = 0
    promised: int = 0
    express: int = 0
    resumed: int = 0
    voided: int = 0
    cancelled: int = 0
    estimated: int = 0
    queue_s: Histogram = msgspec.field(default_factory=Histogram)
    hold_s: Histogram = msgspec.field(default_factory=Histogram)
    first_token_s: Histogram = msgspec.field(default_factory=Histogram)
    upstream_s: Histogram = msgspec.field(default_factory=Histogram)
    settle_s: Histogram = msgspec.field(default_factory=Histogram)
    call_s: Histogram = msgspec.field(default_factory=Histogram)
    added_s: Histogram = msgspec.field(default_factory=Histogram)

    def answered(self, path: str, status: int, error: str = "") -> None:
        """Count an answered request, and what was wrong with it."""
        _add(self.requests, f"{path} {status}", 1)
        if error:
            self.refuse(error)

    def refuse(self, code: str) -> None:
        """Count an error that a client was told of, or would have been had it stayed."""
        _add(self.refused, code, 1)

    def failed(self, endpoint_id: str, failure: str) -> None:
        """Count an engine that was asked and did not answer."""
        _add(self.failures, f"{endpoint_id} {failure}", 1)

    def billed(self, call: Call, bill: Bill) -> None:
        """Count a call that has been settled."""
        slug = call.record.listing.slug
        _add(self.calls, slug, 1)
        _add(self.input_tokens, slug, bill.used.input_tokens)
        _add(self.output_tokens, slug, call.output_tokens)
        _add(self.cost_u, slug, bill.cost_u)
        if call.why != "only":
            _add(self.routes, call.why, 1)
        self.cancelled += bill.outcome == "cancelled"
        self.estimated += bill.source != "engine"
        total_us = call.settled_at_us - call.started_at_us
        upstream_us = call.answered_at_us - call.held_at_us
        self.call_s.observe(total_us / 1e6)
        self.upstream_s.observe(upstream_us / 1e6)
        self.settle_s.observe((call.settled_at_us - bill.at_us) / 1e6)
        self.added_s.observe((total_us - upstream_us - call.waited_us) / 1e6)
        if call.first_token_us:
            self.first_token_s.observe(call.first_token_us / 1e6)

    def add(self, other: Counters) -> None:
        """Count what another worker has counted.

        Every name stays: were some of them folded into one here, which ones would change with each worker
        that ends, and counters would go down.
        """
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                for key, count in theirs.items():
                    mine[key] = mine.get(key, 0) + count
            elif isinstance(mine, Histogram):
                mine.add(theirs)
            else:
                setattr(self, name, mine + theirs)


class Now(msgspec.Struct):
    """How things stand in a worker at this moment."""

    running: int = 0
    holds: int = 0
    connections: int = 0
    queued_ledger: int = 0
    waiting: dict[str, int] = msgspec.field(default_factory=dict)
    """Calls in the fair queue, by listing."""
    endpoints: list[Any] = msgspec.field(default_factory=list)
    cpu_s: float = 0.0
    """Processor time (user and system) of this worker since it started."""
    memory_bytes: int = 0
    """Resident memory of this worker."""
    unseen: int = 0
    """Requests of which nothing could be told to log and traces, since this worker started."""


class Report(msgspec.Struct):
    """What a worker tells the office every second."""

    counters: Counters
    now: Now


def _add(counts: dict[str, int], key: str, count: int) -> None:
    known = counts.get(key)
    if known is None and len(counts) >= _MOST_SERIES:
        key = "other"  # names that callers choose must not fill the memory
        known = counts.get(key)
    counts[key] = (known or 0) + count
