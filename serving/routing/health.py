"""What an endpoint did lately, as this process saw it: calls in flight, errors, cooldown, speed.

    closed ── too many errors in a window ──► cooling ── the time is over ──► half-open: one probe
      ▲                                          ▲                               │        │
      └────────────── it answers ────────────────┼───────────────────────────────┘        │
                                                 └── it fails: twice as long ─────────────┘

The circuit breaker of M. Nygard, "Release It!" (2007), with exponential back-off. Times are monotonic
seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import ceil
from typing import Literal, NamedTuple

from serving.routing.affinity import endpoint_seed

Failure = Literal["connect", "timeout", "status", "broken", "busy"]
"""What went wrong: no connection; silence; an answer that says 5xx; broke off or talked nonsense; or it
is well but has no room (429, 503), which is no error."""

_SAMPLES = 64
_SAMPLES_S = 300.0
_BUSY_S = 1.0
_LONGEST_BUSY_S = 30.0


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


class Standing(NamedTuple):
    """One endpoint's health, for people and metrics. `state`: closed, cooling, half_open or busy."""

    id: str
    state: str
    in_flight: int
    trips: int
    wait_s: float
    tokens_per_s: float | None
    first_token_s: float | None


class Health:
    """One endpoint's state."""

    __slots__ = (
        "calm_since_s",
        "errors",
        "first_tokens",
        "in_flight",
        "open",
        "probing",
        "rates",
        "seed",
        "shut_until_s",
        "successes",
        "trips",
        "url",
        "used_s",
    )

    def __init__(self, endpoint_id: str, url: str, breaker: Breaker, now_s: float) -> None:
        self.seed = endpoint_seed(endpoint_id)
        self.url = url
        self.in_flight = 0
        self.used_s = now_s
        self.shut_until_s = 0.0
        """0 when nothing is wrong: the one number that a choice looks at first."""
        self.open = False
        self.probing = False
        self.trips = 0
        self.calm_since_s = now_s
        self.successes = 0
        self.errors: deque[tuple[float, int]] = deque(maxlen=breaker.errors)
        self.rates: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)
        self.first_tokens: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)

    def unfit(self, url: str, now_s: float) -> str:
        """Return why it gets no request now; '' when it may. Ask only if `shut_until_s` is not 0.

        An engine that was started again is at a new address, and nothing is held against it.
        """
        if url != self.url:
            self.url = url
            self._close(now_s)
            return ""
        if now_s < self.shut_until_s:
            return "cooling" if self.open else "busy"
        if self.open:
            return "probing" if self.probing else ""
        self.shut_until_s = 0.0
        return ""

    def succeeded(self, now_s: float, probe: bool) -> None:
        """It answered."""
        self.successes += 1
        if probe and self.open:
            self._close(now_s)

    def failed(self, breaker: Breaker, now_s: float, probe: bool) -> None:
        """It erred. While the circuit is open only the probe counts: the rest began before."""
        if self.open:
            if probe:
                self._trip(breaker, now_s)
            return
        self.errors.append((now_s, self.successes))
        if len(self.errors) < breaker.errors:
            return
        since_s, successes = self.errors[0]
        ended = breaker.errors + self.successes - successes
        if now_s - since_s <= breaker.window_s and breaker.errors >= breaker.share * ended:
            if now_s - self.calm_since_s >= breaker.calm_s:
                self.trips = 0
            self._trip(breaker, now_s)

    def rest(self, now_s: float, wait_s: float | None) -> None:
        """It has no room, and asks to be left alone for `wait_s`."""
        if not self.open:
            rest_s = min(_LONGEST_BUSY_S, _BUSY_S if wait_s is None else max(0.0, wait_s))
            self.shut_until_s = max(self.shut_until_s, now_s + rest_s)

    def _close(self, now_s: float) -> None:
        self.open = self.probing = False
        self.shut_until_s = 0.0
        self.errors.clear()
        self.calm_since_s = now_s

    def _trip(self, breaker: Breaker, now_s: float) -> None:
        # The exponent is bounded, because 2.0**1024 is an error.
        self.shut_until_s = now_s + min(
            breaker.longest_s, breaker.first_s * 2.0 ** min(self.trips, 64)
        )
        self.trips += 1
        self.open = True
        self.probing = False
        self.errors.clear()

    def rate(self, percentile: int, now_s: float) -> float | None:
        """Return the tokens per second that `percentile` % of recent calls reached, None if unknown."""
        return _percentile(self.rates, percentile, now_s, best_first=True)

    def first_token(self, percentile: int, now_s: float) -> float | None:
        """Return the seconds to the first token that `percentile` % of recent calls kept to."""
        return _percentile(self.first_tokens, percentile, now_s, best_first=False)

    def standing(self, endpoint_id: str, now_s: float) -> Standing:
        """Return what there is to show."""
        state = "closed"
        if self.open:
            state = "cooling" if now_s < self.shut_until_s else "half_open"
        elif now_s < self.shut_until_s:
            state = "busy"
        return Standing(
            endpoint_id,
            state,
            self.in_flight,
            self.trips,
            max(0.0, self.shut_until_s - now_s),
            self.rate(50, now_s),
            self.first_token(50, now_s),
        )


def _percentile(
    samples: Iterable[tuple[float, float]], percentile: int, now_s: float, *, best_first: bool
) -> float | None:
    recent = sorted(
        (value for at_s, value in samples if now_s - at_s <= _SAMPLES_S), reverse=best_first
    )
    return recent[ceil(percentile / 100 * len(recent)) - 1] if recent else None
