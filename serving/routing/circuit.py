"""A circuit breaker: when an endpoint is left alone, and how it is found well again.

    closed ── too many errors in a window ──► cooling ── the time is over ──► half-open: one probe
      ▲                                          ▲                               │        │
      └────────────── it answers ────────────────┼───────────────────────────────┘        │
                                                 └── it fails: twice as long ─────────────┘

After M. Nygard, "Release It!" (2007), with exponential back-off. Times are monotonic seconds.
"""

from __future__ import annotations

from typing import NamedTuple


class Breaker(NamedTuple):
    """When an endpoint is left alone, and for how long.

    `errors` within `window_s` open it, if they are at least `share` of what ended meanwhile: three errors
    among a thousand calls are no reason. It stays open `first_s`, then twice as long each time, up to
    `longest_s`; one that then stays closed for `calm_s` is trusted as before.
    """

    errors: int = 3
    window_s: float = 30.0
    share: float = 0.2
    first_s: float = 1.0
    longest_s: float = 60.0
    calm_s: float = 120.0


class Circuit:
    """One breaker's state."""

    __slots__ = ("calm_since_s", "open", "probing", "shut_until_s", "trips")

    def __init__(self, now_s: float) -> None:
        self.shut_until_s = 0.0
        self.open = False
        self.probing = False
        self.trips = 0
        self.calm_since_s = now_s

    def trip(self, breaker: Breaker, now_s: float) -> None:
        """Open it, for twice as long as the last time if that was lately."""
        if not self.open and now_s - self.calm_since_s >= breaker.calm_s:
            self.trips = 0
        # The exponent is bounded, because 2.0**1024 is an error.
        self.shut_until_s = now_s + min(
            breaker.longest_s, breaker.first_s * 2.0 ** min(self.trips, 64)
        )
        self.trips += 1
        self.open = True
        self.probing = False

    def close(self, now_s: float) -> None:
        """Trust the endpoint again."""
        self.open = self.probing = False
        self.shut_until_s = 0.0
        self.calm_since_s = now_s
