"""Prices as the catalogue shows them. It sets none: whoever does hands in a `PriceOf`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from catalog.ground.units import RATE_TOKENS, YUAN_U

Prices = Mapping[str, Any]
"""Rates by component: `input_u_per_m`, `output_u_per_m`, `cache_read_u_per_m`, `cache_write_u_per_m`,
`reasoning_u_per_m` in micro-yuan per million tokens. Others (tiers, hours) are left to the price page."""

PriceOf = Callable[[str], Prices | None]
"""Takes a slug, returns what it costs now, None when it has no price."""

_SHOWN = {
    "prompt": "input_u_per_m",
    "completion": "output_u_per_m",
    "input_cache_read": "cache_read_u_per_m",
    "input_cache_write": "cache_write_u_per_m",
    "internal_reasoning": "reasoning_u_per_m",
}


def per_token(rate_u_per_m: int) -> str:
    """Return yuan per token as an exact decimal string: 2,500,000 is `"0.0000025"`."""
    yuan = Decimal(rate_u_per_m) / (YUAN_U * RATE_TOKENS)
    return format(yuan.normalize(), "f")


def shown_prices(prices: Prices) -> dict[str, str]:
    """Return OpenRouter's price fields, yuan per token; components without a rate are left out."""
    shown = {
        name: per_token(prices[rate])
        for name, rate in _SHOWN.items()
        if prices.get(rate) is not None
    }
    return {"prompt": "0", "completion": "0"} | shown | {"request": "0", "image": "0"}


def blended_u_per_m(prices: Prices) -> int:
    """Return the one figure to compare by: three tokens in for each token out, as chats go."""
    return (3 * int(prices.get("input_u_per_m") or 0) + int(prices.get("output_u_per_m") or 0)) // 4
