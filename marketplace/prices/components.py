"""What a call costs: rates by token bucket, and how an engine's usage falls into the buckets.

Buckets are disjoint: a token is counted in exactly one of them. `cost_u` rounds once.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import msgspec

from catalog.ground.errors import BadRequest
from catalog.ground.units import MAX_U, RATE_TOKENS, round_cost_u


class Components(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rates in micro-yuan per million tokens (`*_u_per_m`); `request_u` is micro-yuan a call.

    A cache or reasoning rate that is left out is the input or output rate.
    """

    input_u_per_m: int
    output_u_per_m: int
    cache_read_u_per_m: int | None = None
    cache_write_u_per_m: int | None = None
    reasoning_u_per_m: int | None = None
    request_u: int = 0


class Buckets(NamedTuple):
    """Disjoint counts of tokens."""

    input_uncached: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int

    @property
    def total(self) -> int:
        """All tokens of the call."""
        return sum(self)


def parse_components(text: str | bytes) -> Components:
    """Return the components of a price version; `BadRequest` names the field that is wrong."""
    try:
        components = msgspec.json.decode(text, type=Components)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"This is not a price: {error}.", rule="price.components") from None
    for name in components.__struct_fields__:
        rate = getattr(components, name)
        if rate is not None and not 0 <= rate <= MAX_U // 2**32:
            raise BadRequest(f"{name} is out of range.", rule="price.components", param=name)
    return components


def canonical(components: Components) -> tuple[str, str]:
    """Return the canonical JSON of a price and its SHA-256."""
    document = json.loads(msgspec.json.encode(components))
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return text, hashlib.sha256(text.encode()).hexdigest()


def cost_u(used: Buckets, components: Components, *, at_us: int) -> int:
    """Return what the call costs in micro-yuan: one half-up rounding of the exact sum."""
    c = components
    cache_read = c.input_u_per_m if c.cache_read_u_per_m is None else c.cache_read_u_per_m
    cache_write = c.input_u_per_m if c.cache_write_u_per_m is None else c.cache_write_u_per_m
    reasoning = c.output_u_per_m if c.reasoning_u_per_m is None else c.reasoning_u_per_m
    return round_cost_u(
        used.input_uncached * c.input_u_per_m
        + used.cache_read * cache_read
        + used.cache_write * cache_write
        + used.output * c.output_u_per_m
        + used.reasoning * reasoning
        + c.request_u * RATE_TOKENS
    )


def estimate_u(
    components: Components, input_tokens: int, output_tokens: int, *, at_us: int
) -> int:
    """Return the most that a call of at most so many tokens can cost, micro-yuan."""
    c = components
    dearest_input = max(c.input_u_per_m, c.cache_read_u_per_m or 0, c.cache_write_u_per_m or 0)
    dearest_output = max(c.output_u_per_m, c.reasoning_u_per_m or 0)
    return round_cost_u(
        input_tokens * dearest_input + output_tokens * dearest_output + c.request_u * RATE_TOKENS
    )


def normalise_usage(usage: dict[str, Any]) -> Buckets:
    """Return OpenAI's usage object as disjoint buckets.

    Cached tokens are inside `prompt_tokens`, reasoning tokens inside `completion_tokens`; a part that is
    larger than its whole is cut to it, and what is negative or no number counts as nothing.
    """
    prompt = _count(usage, "prompt_tokens")
    completion = _count(usage, "completion_tokens")
    details = usage.get("prompt_tokens_details") or {}
    cache_read = min(prompt, _count(details, "cached_tokens"))
    cache_write = min(prompt - cache_read, _count(details, "created_cache_tokens"))
    reasoning = _count(usage.get("completion_tokens_details") or {}, "reasoning_tokens")
    reasoning = min(completion, reasoning)
    return Buckets(
        input_uncached=prompt - cache_read - cache_write,
        cache_read=cache_read,
        cache_write=cache_write,
        output=completion - reasoning,
        reasoning=reasoning,
    )


def _count(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and value > 0 else 0
