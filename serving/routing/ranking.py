"""In which order a wish takes the endpoints that are left: equal ranks share the load."""

from __future__ import annotations

from math import inf

from serving.routing.candidate import Candidate
from serving.routing.health import Health
from serving.routing.wish import Percentiles, Wish

Rank = tuple[float, ...]


def ranks(wish: Wish) -> bool:
    """Return whether the wish has an order of its own; else priorities alone decide."""
    return bool(
        wish.order
        or wish.sort
        or wish.preferred_min_throughput is not None
        or wish.preferred_max_latency is not None
    )


def rank(wish: Wish, candidate: Candidate, health: Health, now_s: float) -> Rank:
    """Return the place of a candidate, lowest first."""
    missed = float(_misses(wish, health, now_s))
    if wish.order:
        return (wish.position(candidate.provider), missed, candidate.priority)
    return (missed, _measure(wish, candidate, health, now_s), candidate.priority)


def _measure(wish: Wish, candidate: Candidate, health: Health, now_s: float) -> float:
    """Speeds that nobody has measured count as the best, so that somebody measures them."""
    by = wish.sorted_by
    if by == "price":
        if candidate.input_u_per_m is None or candidate.output_u_per_m is None:
            return inf
        return candidate.input_u_per_m + candidate.output_u_per_m
    if by == "throughput":
        rate = health.rate(50, now_s)
        return -inf if rate is None else -rate
    if by == "latency":
        first_token_s = health.first_token(50, now_s)
        return -inf if first_token_s is None else first_token_s
    return 0.0


def _misses(wish: Wish, health: Health, now_s: float) -> bool:
    for percentile, least in _cutoffs(wish.preferred_min_throughput):
        rate = health.rate(percentile, now_s)
        if rate is not None and rate < least:
            return True
    for percentile, most_s in _cutoffs(wish.preferred_max_latency):
        first_token_s = health.first_token(percentile, now_s)
        if first_token_s is not None and first_token_s > most_s:
            return True
    return False


def _cutoffs(preferred: float | Percentiles | None) -> list[tuple[int, float]]:
    if preferred is None:
        return []
    return preferred.pairs() if isinstance(preferred, Percentiles) else [(50, preferred)]
