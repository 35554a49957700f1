"""Why an endpoint may not answer a request, and the error for when none may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from catalog.ground.errors import BadRequest, EndpointsFull, TokenMartError, Unavailable
from serving.routing.candidate import Candidate
from serving.routing.choice import Choice, Endpoint
from serving.routing.wish import NEEDED, Wish, objection

_MOST_TOLD = 8
_LONGEST_WAIT_S = 60.0


def admitted(
    candidates: Sequence[Endpoint], wish: Wish | None, wanted: frozenset[str]
) -> list[Endpoint]:
    """Return the candidates that may answer a request, whatever their health."""
    return [c for c in candidates if not objection(wish, c, wanted)]


def objection_to(
    candidate: Candidate, wish: Wish | None, wanted: frozenset[str], tried: Sequence[Choice[Any]]
) -> str:
    """Return why a candidate may not answer this request, whatever its health; '' if it may."""
    for choice in tried:
        if choice.candidate.id == candidate.id:
            return f"tried: {choice.failure or 'given up'}"
    if tried and wish is not None and wish.allow_fallbacks is False and not wish.order:
        first = tried[0].candidate.provider
        if candidate.provider != first:
            return f"allow_fallbacks: {first} was the choice"
    return objection(wish, candidate, wanted)


def refusal(
    candidates: Sequence[Candidate],
    wish: Wish | None,
    wanted: frozenset[str],
    tried: Sequence[Choice[Any]],
    unfit: Sequence[tuple[str, str, float]],
) -> TokenMartError:
    """Return the error that nobody is left, with the reason for each candidate in its details.

    `unfit` are (id, reason, seconds until it is over) of those that the request would have admitted.
    """
    told = {
        c.id: objection_to(c, wish, wanted, tried) or "allow_fallbacks: not the first choice"
        for c in candidates
    }
    for name, reason, wait_s in unfit:
        told[name] = f"{reason} for {wait_s:.1f} s" if wait_s > 0 else reason
    words = "; ".join(f"{c.provider}: {told[c.id]}" for c in candidates[:_MOST_TOLD])
    if candidates and not unfit and not tried:
        return BadRequest(
            f"No endpoint of this model meets the request ({words}).",
            code="no_endpoint_matches",
            param="provider" if wish is not None else min(wanted & NEEDED),
            rule="routing.wish",
            remedy="Ask for less; GET /v1/models says what a model supports.",
            details={"endpoints": told},
        )
    waits = [wait_s for _, _, wait_s in unfit if wait_s > 0]
    full = any(reason == "full" for _, reason, _ in unfit)
    return (EndpointsFull if full else Unavailable)(
        "No engine can take the request right now; nothing was charged"
        + (f" ({words})." if words else "."),
        code="no_healthy_endpoint",
        rule="routing.health",
        details={"endpoints": told},
        retry_after_s=min(_LONGEST_WAIT_S, max(1.0, min(waits))) if waits else 2.0,
    )
