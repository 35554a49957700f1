"""A limit on requests per caller, kept in this process: enough to stop a loop that has gone wild."""

from __future__ import annotations

from fastapi import Request

from catalog.ground.clock import MINUTE_US, SECOND_US, Clock
from catalog.ground.errors import RateLimited

_FORGET_ABOVE = 10_000


class RequestMeter:
    """A bucket per caller (key, or address for strangers) that refills evenly over a minute."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._capacity = float(per_minute)
        self._clock = clock
        self._buckets: dict[int, tuple[float, int]] = {}

    def take(self, request: Request) -> None:
        """Count one request; `RateLimited` says when to come again."""
        address = request.client.host if request.client else "nobody"
        # By its hash: who tries many long keys must not fill the memory with them.
        who = hash(request.headers.get("authorization") or address)
        now = self._clock()
        level, since = self._buckets.get(who, (self._capacity, now))
        level = min(self._capacity, level + (now - since) * self._capacity / MINUTE_US)
        if level < 1:
            wait_s = (1 - level) * MINUTE_US / self._capacity / SECOND_US
            raise RateLimited(
                "Too many requests; the client will try again by itself.",
                rule="hub.rate",
                retry_after_s=max(1.0, wait_s),
            )
        if len(self._buckets) > _FORGET_ABOVE:
            self._buckets.clear()
        self._buckets[who] = (level - 1, now)
