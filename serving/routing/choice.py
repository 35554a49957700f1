"""What a decision is: a place on an endpoint, and why it."""

from __future__ import annotations

from typing import Generic, TypeVar

from serving.routing.candidate import Candidate
from serving.routing.circuit import Circuit
from serving.routing.health import Failure, Health

Endpoint = TypeVar("Endpoint", bound=Candidate)


class Choice(Generic[Endpoint]):
    """A place on an endpoint. Give it back once: `Router.ended`, `failed` or `abandoned`; what comes after
    the first of these does nothing, so that `abandoned` may stand in a `finally`.

    `why` goes on the usage event. It is a path from the outside in, joined by `>`:

        retry:<failure>   another endpoint was tried before and failed so
        order[<n>]        the wish names its provider at place n
        order:fallback    the wish names others, none of which was fit
        sort:<field>      the best by price, throughput or latency
        only              nobody else was fit
        probe             it has cooled down, and this request finds out whether it is well
        affinity          it is the home of this prompt
        affinity:<state>  the next best home; the first is cooling, probing, busy, full or overloaded
        least_loaded      the least in flight for its weight

    `failure` is what `failed` was told, `caller` who asks; `trial` is the open circuit whose closing hangs on
    this call.
    """

    __slots__ = ("caller", "candidate", "failure", "health", "running", "started_s", "trial", "why")

    def __init__(
        self,
        candidate: Endpoint,
        health: Health,
        why: str,
        now_s: float,
        trial: Circuit | None,
        caller: str,
    ) -> None:
        self.candidate = candidate
        self.health = health
        self.why = why
        self.started_s = now_s
        self.trial = trial
        self.caller = caller
        self.running = True
        self.failure: Failure | None = None

    @property
    def probe(self) -> bool:
        """Whether the endpoint's recovery hangs on this call."""
        return self.trial is not None
