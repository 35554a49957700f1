"""What a call costs: rates by token bucket, by input length and by the hour, and one rounding.

A price may be zero throughout: a free listing is one whose price says so.

Rates are chosen once, for the whole call: `tiers` by how long its input is, `off_peak` by when it
began. The cost is the exact sum over disjoint buckets (`usage`), rounded half up, once.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec

from catalog.ground.clock import MINUTE_US
from catalog.ground.errors import BadRequest
from catalog.ground.units import RATE_TOKENS, WHOLE_BP, round_cost_u
from marketplace.prices.usage import Buckets, Usage, normalise_usage, read_usage

__all__ = [
    "Buckets",
    "Components",
    "OffPeak",
    "Tier",
    "Usage",
    "canonical",
    "cost_u",
    "estimate_u",
    "normalise_usage",
    "parse_components",
    "read_usage",
]

MOST_U = 10**12
"""The highest rate: ¥1 a token. Above it, a price is a slip of the hand."""
_DAY_MIN = 24 * 60
_BEIJING_MIN = 8 * 60
_OFF_PEAK_SCALE = RATE_TOKENS * WHOLE_BP


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rates for calls whose input is longer than `over_input_tokens`; for all of their tokens."""

    over_input_tokens: int
    input_u_per_m: int
    output_u_per_m: int
    cache_read_u_per_m: int | None = None
    cache_write_u_per_m: int | None = None
    reasoning_u_per_m: int | None = None


class OffPeak(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"begin": "from", "end": "to"}
):
    """A daily window in Beijing time (`00:30` to `08:30`, the end excluded) and what is charged in it."""

    begin: str
    end: str
    ratio_bp: int


class Components(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rates in micro-yuan per million tokens (`*_u_per_m`); `request_u`, `image_u` and `second_u` are
    micro-yuan a call, a picture and a second.

    A cache or reasoning rate that is left out is the input or output rate. `tiers` rise by length and
    replace the token rates; `off_peak` windows do not overlap and lower everything.
    """

    input_u_per_m: int
    output_u_per_m: int
    cache_read_u_per_m: int | None = None
    cache_write_u_per_m: int | None = None
    reasoning_u_per_m: int | None = None
    request_u: int = 0
    image_u: int = 0
    second_u: int = 0
    tiers: tuple[Tier, ...] = ()
    off_peak: tuple[OffPeak, ...] = ()


def parse_components(text: str | bytes) -> Components:
    """Return the components of a price version; `BadRequest` names the field that is wrong."""
    try:
        components = msgspec.json.decode(text, type=Components)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadRequest(f"This is not a price: {error}.", rule="price.components") from None
    parts: list[Components | Tier] = [components, *components.tiers]
    for part in parts:
        _check_rates(part)
    bounds = [0] + [tier.over_input_tokens for tier in components.tiers]
    if any(b <= a for a, b in pairwise(bounds)):
        raise BadRequest(
            "Tiers must begin above 0 tokens and rise.", rule="price.tiers", param="tiers"
        )
    _check_windows(components.off_peak)
    return components


def canonical(components: Components) -> tuple[str, str]:
    """Return the canonical JSON of a price and its SHA-256."""
    document = json.loads(msgspec.json.encode(components))
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return text, hashlib.sha256(text.encode()).hexdigest()


def cost_u(used: Buckets, components: Components, *, at_us: int) -> int:
    """Return what the call costs in micro-yuan: one half-up rounding of the exact sum.

    `at_us` is when the call began, the same as for its estimate.
    """
    c = components
    rates: Components | Tier = c
    if c.tiers:
        rates = _tier(c, used.input_uncached + used.cache_read + used.cache_write)
    input_rate, output_rate = rates.input_u_per_m, rates.output_u_per_m
    numerator = used.input_uncached * input_rate + used.output * output_rate
    if used.cache_read:
        rate = rates.cache_read_u_per_m
        numerator += used.cache_read * (input_rate if rate is None else rate)
    if used.cache_write:
        rate = rates.cache_write_u_per_m
        numerator += used.cache_write * (input_rate if rate is None else rate)
    if used.reasoning:
        rate = rates.reasoning_u_per_m
        numerator += used.reasoning * (output_rate if rate is None else rate)
    numerator += (c.request_u + used.images * c.image_u) * RATE_TOKENS
    numerator += used.duration_ms * c.second_u * (RATE_TOKENS // 1000)
    if c.off_peak:
        return (numerator * ratio_bp(c, at_us) + _OFF_PEAK_SCALE // 2) // _OFF_PEAK_SCALE
    return round_cost_u(numerator)


def estimate_u(
    components: Components,
    input_tokens: int,
    output_tokens: int,
    *,
    at_us: int,
    images: int = 0,
    duration_ms: int = 0,
) -> int:
    """Return the most that a call of at most so many tokens can cost, micro-yuan.

    A shorter input may fall into a dearer tier, so every tier that it can reach is looked at.
    """
    c = components
    dearest = (
        _dearest(c, input_tokens, output_tokens)
        if c.tiers
        else _most(c, input_tokens, output_tokens)
    )
    dearest += (c.request_u + images * c.image_u) * RATE_TOKENS
    dearest += duration_ms * c.second_u * (RATE_TOKENS // 1000)
    if c.off_peak:
        return (dearest * ratio_bp(c, at_us) + _OFF_PEAK_SCALE // 2) // _OFF_PEAK_SCALE
    return round_cost_u(dearest)


def ratio_bp(components: Components, at_us: int) -> int:
    """Return what part of the price is charged for a call that begins at the instant."""
    # Beijing has had no summer time since 1991, so the minute of the day needs no calendar.
    minute = (at_us // MINUTE_US + _BEIJING_MIN) % _DAY_MIN
    for window in components.off_peak:
        begin, end = _minute(window.begin), _minute(window.end)
        if begin <= minute < end or (end <= begin and (minute >= begin or minute < end)):
            return window.ratio_bp
    return WHOLE_BP


def _tier(components: Components, input_tokens: int) -> Components | Tier:
    rates: Components | Tier = components
    for tier in components.tiers:
        if input_tokens <= tier.over_input_tokens:
            break
        rates = tier
    return rates


def _dearest(components: Components, input_tokens: int, output_tokens: int) -> int:
    parts: list[Components | Tier] = [components, *components.tiers]
    tops = [tier.over_input_tokens for tier in components.tiers] + [input_tokens]
    return max(
        _most(rates, min(top, input_tokens), output_tokens)
        for rates, top, floor in zip(parts, tops, [-1, *tops], strict=False)
        if floor < input_tokens
    )


def _most(rates: Components | Tier, input_tokens: int, output_tokens: int) -> int:
    return input_tokens * max(
        rates.input_u_per_m, rates.cache_read_u_per_m or 0, rates.cache_write_u_per_m or 0
    ) + output_tokens * max(rates.output_u_per_m, rates.reasoning_u_per_m or 0)


def _check_rates(part: Components | Tier) -> None:
    for name in part.__struct_fields__:
        rate: Any = getattr(part, name)
        if isinstance(rate, int) and not 0 <= rate <= MOST_U:
            raise BadRequest(
                f"{name} is {rate}: a rate lies between 0 and {MOST_U:,} micro-yuan.",
                rule="price.components",
                param=name,
            )


def _check_windows(windows: tuple[OffPeak, ...]) -> None:
    taken: set[int] = set()
    for window in windows:
        begin, end = _minute(window.begin), _minute(window.end)
        if not 0 <= window.ratio_bp <= WHOLE_BP:
            raise BadRequest(
                "An off-peak price is 0 to 10,000 bp of the price.",
                rule="price.off_peak",
                param="off_peak",
            )
        span = range(begin, end) if begin < end else (*range(begin, _DAY_MIN), *range(end))
        if taken.intersection(span):
            raise BadRequest(
                f"The window from {window.begin} overlaps another.",
                rule="price.off_peak",
                param="off_peak",
                remedy="Give each minute of the day one price.",
            )
        taken.update(span)


@lru_cache(1024)
def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    if len(text) == 5 and hour.isdecimal() and minute.isdecimal() and text.isascii():
        value = int(hour) * 60 + int(minute)
        if int(minute) < 60 and value < _DAY_MIN:
            return value
    raise BadRequest(
        f"{text!r} is not a time of day.",
        rule="price.off_peak",
        param="off_peak",
        remedy="Write 00:30.",
    )
