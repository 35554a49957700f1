"""What an endpoint did lately, as this process saw it: calls in flight, errors, cooldown, speed.

Errors open its circuit (`circuit`). Whose errors they were decides for whom: an endpoint that refuses
connections is not there for anybody, but one that fails on the calls of one organisation alone may be
well, and it may be that organisation's prompts that it chokes on. Then the circuit opens for this
organisation and for nobody else, until a second one meets errors as well. Different bodies of one
organisation prove nothing: whoever wants to harm others writes three different ones.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import ceil
from typing import Literal, NamedTuple

from serving.routing.affinity import endpoint_seed
from serving.routing.circuit import Breaker, Circuit

Failure = Literal["connect", "timeout", "status", "broken", "busy"]
"""What went wrong: no connection; silence; an answer that says 5xx; broke off or talked nonsense; or it
is well but has no room (429, 503), which is no error."""

_SAMPLES = 64
_SAMPLES_S = 300.0
_BUSY_S = 1.0
_LONGEST_BUSY_S = 30.0


class Standing(NamedTuple):
    """One endpoint's health, for people and metrics. `state`: closed, cooling, half_open or busy.

    `apart` is for how many callers alone it is cooling or half open.
    """

    id: str
    state: str
    in_flight: int
    trips: int
    wait_s: float
    tokens_per_s: float | None
    first_token_s: float | None
    apart: int


class Health(Circuit):
    """One endpoint's state, and its circuit for all callers.

    `shut_until_s` is 0 when nothing is wrong: the one number that a choice looks at first. It is below 0
    when something may be wrong for some callers only.
    """

    __slots__ = (
        "apart",
        "apart_until_s",
        "errors",
        "first_tokens",
        "in_flight",
        "last_probe",
        "rates",
        "seed",
        "successes",
        "url",
        "used_s",
    )

    def __init__(self, endpoint_id: str, url: str, breaker: Breaker, now_s: float) -> None:
        super().__init__(now_s)
        self.seed = endpoint_seed(endpoint_id)
        self.url = url
        self.in_flight = 0
        self.used_s = now_s
        self.successes = 0
        self.errors: deque[tuple[float, int, str]] = deque(maxlen=breaker.errors)
        self.apart: dict[str, Circuit] = {}
        """Open circuits of callers whose calls alone have failed here."""
        self.apart_until_s = 0.0
        self.last_probe = ""
        """Whose probe failed last, while the circuit is open for all."""
        self.rates: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)
        self.first_tokens: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)

    def unfit(self, url: str, now_s: float, caller: str) -> str:
        """Return why it gets no request of this caller now; '' when it may.

        Ask only if `shut_until_s` is not 0. An engine that was started again is at a new address, and
        nothing is held against it.
        """
        if url != self.url:
            self.url = url
            self.apart.clear()
            self.close(now_s)
            return ""
        if now_s < self.shut_until_s:
            return "cooling" if self.open else "busy"
        if self.open:
            return "probing" if self.probing else self._state_apart(caller, now_s)
        if self.apart and now_s > self.apart_until_s:
            self.apart.clear()
        if not self.apart:
            self.shut_until_s = 0.0
            return ""
        return self._state_apart(caller, now_s)

    def _state_apart(self, caller: str, now_s: float) -> str:
        alone = self.apart.get(caller)
        if alone is None:
            return ""
        if now_s < alone.shut_until_s:
            return "cooling"
        return "probing" if alone.probing else ""

    def trial(self, caller: str) -> Circuit | None:
        """Return the circuit that this caller's next answer would close; None when none is open for him."""
        return self if self.open else self.apart.get(caller)

    def wait_s(self, now_s: float, caller: str) -> float:
        """Return for how much longer it is left alone by this caller; not above 0 when it is not."""
        alone = self.apart.get(caller)
        until_s = self.shut_until_s
        return (until_s if alone is None else max(until_s, alone.shut_until_s)) - now_s

    def succeeded(self, now_s: float, trial: Circuit | None) -> None:
        """A call has ended well; `trial` is the circuit that waited for that."""
        self.successes += 1
        self.recovered(now_s, trial)

    def recovered(self, now_s: float, trial: Circuit | None) -> None:
        """It answers, whatever the answer will be like."""
        if trial is not None and trial.open:
            if trial is self:
                self.close(now_s)
            else:
                self._reunite(trial)

    def failed(self, breaker: Breaker, now_s: float, trial: Circuit | None, caller: str) -> None:
        """It erred on a call of `caller`, or of nobody in particular (''), when nobody could be served.

        While a circuit is open only the probe counts for it: the rest began before.
        """
        if trial is not None and trial.open:
            if trial is self and caller and caller == self.last_probe:
                # It has failed for him already; whether for others is for them to find out.
                alone = self.apart.setdefault(caller, Circuit(now_s))
                self._trip(alone, breaker, now_s)
                return
            if trial is self:
                self.last_probe = caller
            self._trip(trial, breaker, now_s)
            return
        if self.open or caller in self.apart:
            return
        self.errors.append((now_s, self.successes, caller))
        if len(self.errors) < breaker.errors:
            return
        since_s, successes, _ = self.errors[0]
        ended = breaker.errors + self.successes - successes
        if now_s - since_s <= breaker.window_s and breaker.errors >= breaker.share * ended:
            callers = {erred[2] for erred in self.errors}
            if len(callers) > 1 or "" in callers:
                self._trip(self, breaker, now_s)
            else:
                # The errors stay in mind: one of somebody else's opens the circuit for all.
                alone = self.apart[caller] = Circuit(now_s)
                self._trip(alone, breaker, now_s)

    def rest(self, now_s: float, wait_s: float | None) -> None:
        """It has no room, and asks to be left alone for `wait_s`."""
        if not self.open:
            rest_s = min(_LONGEST_BUSY_S, _BUSY_S if wait_s is None else max(0.0, wait_s))
            self.shut_until_s = max(self.shut_until_s, now_s + rest_s)

    def close(self, now_s: float) -> None:
        """Trust the endpoint again, but for callers who are apart."""
        super().close(now_s)
        self.last_probe = ""
        self.errors.clear()
        if self.apart:
            self.shut_until_s = -1.0

    def _trip(self, circuit: Circuit, breaker: Breaker, now_s: float) -> None:
        circuit.trip(breaker, now_s)
        if circuit is self:
            self.errors.clear()
            return
        self.apart_until_s = max(self.apart_until_s, circuit.shut_until_s + breaker.calm_s)
        self.shut_until_s = self.shut_until_s or -1.0

    def _reunite(self, circuit: Circuit) -> None:
        for caller in [name for name, alone in self.apart.items() if alone is circuit]:
            del self.apart[caller]
            kept = [erred for erred in self.errors if erred[2] != caller]
            self.errors.clear()
            self.errors.extend(kept)

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
            len(self.apart) if now_s <= self.apart_until_s else 0,
        )


def _percentile(
    samples: Iterable[tuple[float, float]], percentile: int, now_s: float, *, best_first: bool
) -> float | None:
    recent = sorted(
        (value for at_s, value in samples if now_s - at_s <= _SAMPLES_S), reverse=best_first
    )
    return recent[ceil(percentile / 100 * len(recent)) - 1] if recent else None
