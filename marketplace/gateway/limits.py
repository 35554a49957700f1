"""How often and how much at once: GCRA for rates, plain counting for concurrency.

GCRA (generic cell rate algorithm, ITU-T I.371, Annex A.3, virtual scheduling form) keeps one number a
subject: the instant when it will have caught up. It allows a burst of one whole minute.
"""

from __future__ import annotations

from catalog.ground.clock import MINUTE_US, SECOND_US
from catalog.ground.errors import RateLimited


class RateLimiter:
    """Requests per minute by subject. Holds one integer for each subject seen lately."""

    def __init__(self) -> None:
        self._caught_up_us: dict[str, int] = {}

    def take(self, subject: str, per_minute: int, now_us: int) -> int:
        """Count one request; return how many more may follow at once. Raises `RateLimited`."""
        interval = max(1, MINUTE_US // per_minute)
        start = max(self._caught_up_us.get(subject, 0), now_us)
        ahead = start + interval - now_us
        if ahead > MINUTE_US:
            wait_s = (ahead - MINUTE_US) / SECOND_US
            raise RateLimited(
                f"This key may make {per_minute} requests per minute.",
                rule="limits.key.rpm",
                remedy=f"Wait {wait_s:.2f} s, or ask the operator for a higher limit.",
                retry_after_s=wait_s,
            )
        self._caught_up_us[subject] = start + interval
        if len(self._caught_up_us) > 100_000:
            self._forget(now_us)
        return (MINUTE_US - ahead) // interval

    def _forget(self, now_us: int) -> None:
        self._caught_up_us = {s: at for s, at in self._caught_up_us.items() if at > now_us}


class ConcurrencyLimiter:
    """Calls in flight by subject; use it as `with limiter.slot(subject, most):`."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}

    def enter(self, subject: str, most: int) -> None:
        """Take a slot; raises `RateLimited` when `most` are taken. Give it back with `leave`."""
        running = self.running.get(subject, 0)
        if running >= most:
            raise RateLimited(
                f"This key may have {most} calls running at once.",
                code="concurrency_limit_exceeded",
                rule="limits.key.concurrency",
                remedy="Wait for one of them to end.",
                retry_after_s=1,
            )
        self.running[subject] = running + 1

    def leave(self, subject: str) -> None:
        """Give a slot back."""
        left = self.running[subject] - 1
        if left:
            self.running[subject] = left
        else:
            del self.running[subject]
