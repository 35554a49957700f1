"""Choose the engine endpoint that answers a request.

    candidates ─► wish (the request's `provider` object) ─► health ─► lowest priority ─► affinity or load

`Router.choose` is a pure, in-memory decision on the hot path; it takes a place on the endpoint, and the
`Choice` it returns says why. Exactly one of `ended`, `failed` and `abandoned` gives the place back.

    affinity   which endpoint has probably cached the beginning of this prompt
    candidate  what the router knows of an endpoint
    choice     a place on an endpoint, and why it
    circuit    the breaker: when an endpoint is left alone, and how it comes back
    fallback   which listings a request names: `model`, and `models` where it asks for fallbacks
    health     what an endpoint did lately: in flight, errors, cooldown, speed
    refusal    why nobody may answer
    router     the decision
    wish       what the caller asks of endpoints, in OpenRouter's words
"""

from serving.routing.affinity import affinity_key
from serving.routing.candidate import QUANTIZATIONS, Candidate
from serving.routing.choice import Choice
from serving.routing.circuit import Breaker
from serving.routing.fallback import listings_asked_for
from serving.routing.health import Failure, Standing
from serving.routing.refusal import admitted
from serving.routing.router import Router
from serving.routing.wish import Wish, parameters_of, parse_wish

__all__ = [
    "QUANTIZATIONS",
    "Breaker",
    "Candidate",
    "Choice",
    "Failure",
    "Router",
    "Standing",
    "Wish",
    "admitted",
    "affinity_key",
    "listings_asked_for",
    "parameters_of",
    "parse_wish",
]
