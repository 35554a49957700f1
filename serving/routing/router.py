"""The decision: one of the endpoints that may answer.

The rules, in order:

1. What the request's `provider` object rules out is out, and so is what this request already tried.
2. Cooling, busy and full endpoints are passed over, as long as they are.
3. The lowest `priority` wins; `order` and `sort` of the wish go before it. Equals share the load:
4. an endpoint that has cooled down gets one request as a probe;
5. a request with an affinity goes home, unless home carries more than its share of what is in flight
   (bounded loads: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016);
6. any other goes where the least is in flight for the weight, and chance by weight breaks ties.

Loads are those of this process: with several gateways each keeps its own count, and a `max_concurrency`
holds for each of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

from serving.routing.affinity import rendezvous
from serving.routing.candidate import Candidate
from serving.routing.choice import Choice, Endpoint
from serving.routing.circuit import Breaker, Circuit
from serving.routing.health import Failure, Health, Standing
from serving.routing.ranking import rank, ranks
from serving.routing.refusal import objection_to, refusal
from serving.routing.wish import Wish

_NOTHING: frozenset[str] = frozenset()
_FORGET_S = 600.0
_SWEEP = 64

Fit = list[tuple[Endpoint, Health]]


class Unfit(NamedTuple):
    """An endpoint that may answer by the wish, but not now. `place` is its rank, `reason` one word."""

    place: Any
    candidate: Any
    health: Health
    reason: str


class Router:
    """Chooses endpoints and remembers how they did. One for each process, used from one thread.

    `epsilon` is how much more than its share an endpoint may carry before affinity passes it over; up to
    `at_ease` calls in flight never count as too many, because engines batch. Endpoints that nobody has
    used for ten minutes are forgotten, so memory is bounded by those in use.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        breaker: Breaker | None = None,
        epsilon: float = 0.25,
        at_ease: int = 2,
        chance: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._breaker = breaker or Breaker()
        self._epsilon = epsilon
        self._at_ease = at_ease
        self._chance = (chance or random.Random()).random
        self._known: dict[str, Health] = {}
        self._sweep_at = _SWEEP

    def choose(
        self,
        candidates: Sequence[Endpoint],
        *,
        wish: Wish | None = None,
        affinity: int | None = None,
        wanted: frozenset[str] = _NOTHING,
        tried: Sequence[Choice[Any]] = (),
        caller: str = "",
    ) -> Choice[Endpoint]:
        """Take a place on one of the candidates.

        `affinity` is `affinity_key` of the request, `wanted` are `parameters_of` it, `tried` are the choices
        of the same request that failed, and `caller` is the organisation that asks. Raises `BadRequest`
        when the request leaves nobody, and `Unavailable` when nobody is fit right now; both say for each
        candidate why.
        """
        now_s = self._clock()
        if len(self._known) >= self._sweep_at:
            self._sweep(now_s)
        left = candidates
        if wish is not None or wanted or tried:
            left = [c for c in candidates if not objection_to(c, wish, wanted, tried)]
        ranked = wish is not None and ranks(wish)
        best, fit, unfit, half_open = self._survey(left, wish if ranked else None, now_s, caller)
        if unfit and wish is not None and wish.allow_fallbacks is False and not wish.order:
            fit = _primary(best, fit, unfit)
        if not fit:
            states = [(u.candidate.id, u.reason, u.health.wait_s(now_s, caller)) for u in unfit]
            raise refusal(candidates, wish, wanted, tried, states)
        trial: Circuit | None = None
        if half_open:
            due = [pair for pair in fit if pair[1].trial(caller) is not None]
            if tried and len(due) < len(fit):
                # Who has already met one failure is not sent to find out about the next.
                fit = [pair for pair in fit if pair not in due]
            elif due:
                (candidate, health), why = due[0], "probe"
                trial = health.trial(caller)
        if trial is None:
            candidate, health, why = self._pick(fit, unfit, affinity)
        else:
            trial.probing = True
        if ranked or tried:
            why = _path(why, wish, candidate, tried)
        health.in_flight += 1
        health.used_s = now_s
        return Choice(candidate, health, why, now_s, trial, caller)

    def _survey(
        self, candidates: Sequence[Endpoint], wish: Wish | None, now_s: float, caller: str
    ) -> tuple[Any, Fit[Endpoint], Sequence[Unfit], bool]:
        """Return the best place of those that are fit, these, the unfit, and whether a probe is due."""
        known = self._known
        best: Any = None
        fit: Fit[Endpoint] = []
        unfit: list[Unfit] = []
        half_open = False
        for candidate in candidates:
            health = known.get(candidate.id)
            if health is None:
                health = Health(candidate.id, candidate.url, self._breaker, now_s)
                known[candidate.id] = health
            place: Any = candidate.priority
            if wish is not None:
                place = rank(wish, candidate, health, now_s)
            reason = ""
            on_trial = False
            if health.shut_until_s:
                reason = health.unfit(candidate.url, now_s, caller)
                on_trial = health.trial(caller) is not None
            most = candidate.max_concurrency
            if most is not None and health.in_flight >= most and not reason:
                reason = "full"
            if candidate.weight <= 0:
                reason = "weightless"
            if reason:
                unfit.append(Unfit(place, candidate, health, reason))
            elif best is None or place < best:
                best, fit, half_open = place, [(candidate, health)], on_trial
            elif place == best:
                fit.append((candidate, health))
                half_open = half_open or on_trial
        if unfit and fit:
            # Those behind the best would not have been asked anyway.
            unfit = [u for u in unfit if u.place <= best and u.candidate.weight > 0]
        return best, fit, unfit, half_open

    def _pick(
        self, fit: Fit[Endpoint], unfit: Sequence[Unfit], affinity: int | None
    ) -> tuple[Endpoint, Health, str]:
        if len(fit) == 1 and (affinity is None or not unfit):
            return (*fit[0], "only")
        if affinity is not None:
            return self._home(affinity, fit, unfit)
        return (*self._least_loaded(fit), "least_loaded")

    def _home(
        self, key: int, fit: Fit[Endpoint], unfit: Sequence[Unfit]
    ) -> tuple[Endpoint, Health, str]:
        """Return the home of a key, or the next best with what is the matter with the first."""
        in_flight = 1
        weights = 0
        for candidate, health in fit:
            in_flight += health.in_flight
            weights += candidate.weight
        share = (1.0 + self._epsilon) * in_flight / weights
        at_ease = self._at_ease
        best = highest = -1.0
        matter = ""
        found = fit[0]
        for pair in fit:
            candidate, health = pair
            score = rendezvous(key, health.seed, candidate.weight)
            carried = health.in_flight
            crowded = carried >= at_ease and carried >= share * candidate.weight
            if not crowded and score > best:
                best, found = score, pair
            if score > highest:
                highest, matter = score, "overloaded" if crowded else ""
        for _, candidate, health, reason in unfit:
            score = rendezvous(key, health.seed, candidate.weight)
            if score > highest:
                highest, matter = score, reason
        return (*found, f"affinity:{matter}" if matter else "affinity")

    def _least_loaded(self, fit: Fit[Endpoint]) -> tuple[Endpoint, Health]:
        least = inf
        weights = 0
        found = fit[0]
        for pair in fit:
            weight = pair[0].weight
            load = pair[1].in_flight / weight
            if load < least:
                least, weights, found = load, weight, pair
            elif load == least:
                # Each of the equals stays the one with the chance that its weight gives it.
                weights += weight
                if self._chance() * weights < weight:
                    found = pair
        return found

    def full(self, candidates: Sequence[Candidate]) -> bool:
        """Return whether each of them has all the calls that it takes."""
        for candidate in candidates:
            if candidate.weight > 0:
                most, health = candidate.max_concurrency, self._known.get(candidate.id)
                if most is None or health is None or health.in_flight < most:
                    return False
        return True

    def answered(self, choice: Choice[Any]) -> None:
        """Note the first byte of a stream: the endpoint is well, and that is how long it took."""
        if choice.running:
            now_s = self._clock()
            choice.health.recovered(now_s, choice.trial)
            choice.health.first_tokens.append((now_s, now_s - choice.started_s))
            choice.trial = None  # It has told; how the rest of it goes is an ordinary matter.

    def ended(self, choice: Choice[Any], output_tokens: int = 0) -> None:
        """Note a whole answer. A refusal of the request itself (4xx) is one too, of no tokens."""
        if choice.running:
            now_s = self._clock()
            trial = choice.trial
            health = self._leave(choice, now_s)
            health.succeeded(now_s, trial)
            if output_tokens > 0 and now_s > choice.started_s:
                health.rates.append((now_s, output_tokens / (now_s - choice.started_s)))

    def failed(
        self, choice: Choice[Any], failure: Failure, retry_after_s: float | None = None
    ) -> None:
        """Note what went wrong. `busy` is no error: the endpoint rests for `retry_after_s`.

        An error counts against the endpoint as its caller sees it (see `health`), but for `connect`:
        whoever asks meets a closed door.
        """
        if choice.running:
            now_s = self._clock()
            choice.failure = failure
            trial = choice.trial
            health = self._leave(choice, now_s)
            if failure == "busy":
                health.succeeded(now_s, trial)
                health.rest(now_s, retry_after_s)
            else:
                caller = "" if failure == "connect" else choice.caller
                health.failed(self._breaker, now_s, trial, caller)

    def abandoned(self, choice: Choice[Any]) -> None:
        """Give the place back without a word about the endpoint: the client left, or nothing was sent."""
        if choice.running:
            self._leave(choice, self._clock())

    def standings(self) -> list[Standing]:
        """Return the health of every endpoint that is known, for people and metrics."""
        now_s = self._clock()
        return [health.standing(name, now_s) for name, health in sorted(self._known.items())]

    def _leave(self, choice: Choice[Any], now_s: float) -> Health:
        choice.running = False
        health = choice.health
        health.in_flight -= 1
        health.used_s = now_s
        if choice.trial is not None:
            choice.trial.probing = False
            choice.trial = None
        return health

    def _sweep(self, now_s: float) -> None:
        for name, health in list(self._known.items()):
            if not health.in_flight and health.used_s <= now_s - _FORGET_S:
                del self._known[name]
        self._sweep_at = 2 * len(self._known) + _SWEEP


def _primary(best: Any, fit: Fit[Endpoint], unfit: Sequence[Unfit]) -> Fit[Endpoint]:
    """Return those of `fit` that are no fallback: run by who would answer if everybody were well."""
    ahead = [u for u in unfit if u.place < best] if fit else []
    if not ahead:
        return fit
    first = min(u.place for u in ahead)
    providers = {u.candidate.provider for u in ahead if u.place == first}
    return [pair for pair in fit if pair[0].provider in providers]


def _path(why: str, wish: Wish | None, candidate: Candidate, tried: Sequence[Choice[Any]]) -> str:
    """Return `why` with what the wish and the tries before had to do with it."""
    steps = [f"retry:{tried[-1].failure or 'given_up'}"] if tried else []
    if wish is not None and wish.order:
        at = wish.position(candidate.provider)
        steps.append(f"order[{at}]" if at < len(wish.order) else "order:fallback")
    elif wish is not None and wish.sorted_by:
        steps.append(f"sort:{wish.sorted_by}")
    return ">".join([*steps, why])
