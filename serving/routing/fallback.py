"""Which listings a request names. Another listing than `model` answers only where the request asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from catalog.ground.errors import BadRequest

MOST_LISTINGS = 4
"""Each may be tried, so this bounds how long a caller waits; OpenRouter's own bound is not documented."""


def listings_asked_for(
    model: str | None, models: Sequence[str] | None = None, route: str | None = None
) -> tuple[str, ...]:
    """Return the listings to try, in order: `model`, then `models`, each once.

    The fields are those of the request body in OpenRouter's shape; `model` may be left out where `models`
    stands. `route` is OpenRouter's older word for the same: only `fallback` has a meaning here. Raises
    `BadRequest` that names the field.
    """
    if route not in (None, "fallback"):
        raise BadRequest(
            f"route is {route!r}; only 'fallback' is known.",
            code="invalid_value",
            param="route",
            remedy="Leave route out and list the listings to try in models.",
        )
    asked = dict.fromkeys([model, *(models or ())] if model else models or ())
    if not asked:
        raise BadRequest(
            "The request names no model.",
            code="missing_required_parameter",
            param="model",
            remedy="Set model; GET /v1/models shows what can be called.",
        )
    if len(asked) > MOST_LISTINGS:
        raise BadRequest(
            f"The request names {len(asked)} listings; {MOST_LISTINGS} is the most.",
            code="invalid_value",
            param="models",
            rule="routing.fallback.most",
            remedy="Shorten models.",
        )
    return tuple(asked)
