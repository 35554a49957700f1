"""When a batch is worth a moment's wait for more operations, and for how many."""

from __future__ import annotations

WAIT_S = 0.001
"""How long a batch waits at most."""
_WORTH = 4.0
"""How many operations have to be expected in that time, for the wait to pay."""
_MEMORY_S = 4 * WAIT_S
"""Over how long the rate is measured."""


class Company:
    """What the writer knows of its callers. Instants are those of a monotonic clock, in seconds.

    A transaction costs about as much as four calls in it. Callers that were answered a moment ago, and
    those who waited then, are the ones who may come again: at most for so many a batch waits, and not at
    all where few come, because their calls would be slower and the processor has time.
    """

    def __init__(self) -> None:
        self._crowd = 0
        self._per_s = 0.0
        self._began = 0.0

    def expected(self, queued: int) -> int:
        """Return how many operations the next batch waits for; 0 when it goes as it is."""
        if queued < self._crowd and self._per_s * WAIT_S >= _WORTH:
            return self._crowd
        return 0

    def began(self, count: int, now: float) -> None:
        """A batch of `count` operations begins."""
        passed = max(now - self._began, 1e-6)
        self._per_s += (count / passed - self._per_s) * min(1.0, passed / _MEMORY_S)
        self._began = now

    def answered(self, count: int, queued: int) -> None:
        """A batch of `count` operations has been answered, while `queued` others wait."""
        self._crowd = count + queued
