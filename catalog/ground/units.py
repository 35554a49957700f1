"""Money and tokens as whole numbers, and the only place where anything is rounded.

- `*_u`: micro-yuan, 1 CNY = 1,000,000 (an int64 holds 9.2 trillion CNY).
- `*_u_per_m`: a rate, micro-yuan per 1,000,000 tokens: ¥2.50 per million is 2,500,000, and one token at
  ¥1 per million costs exactly 1 micro-yuan.
- `*_bp`: a share in basis points, 10,000 is the whole.

A request is rounded once, half up, from the exact numerator (`cost_u`). Shares of it round down
(`share_u`); what is left over stays with whoever pays the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from catalog.ground.errors import BadRequest

YUAN_U = 1_000_000
RATE_TOKENS = 1_000_000
WHOLE_BP = 10_000
MAX_U = 2**63 - 1
_YUAN = re.compile(r"([0-9]{1,13})(?:\.([0-9]{1,6}))?")


def cost_numerator(quantities_and_rates: Iterable[tuple[int, int]]) -> int:
    """Return Σ tokens x rate, in micro-yuan per `RATE_TOKENS`: exact, not yet rounded."""
    return sum(quantity * rate for quantity, rate in quantities_and_rates)


def round_cost_u(numerator: int) -> int:
    """Return the numerator of `cost_numerator` in micro-yuan, rounded half up, once per request."""
    return (numerator + RATE_TOKENS // 2) // RATE_TOKENS


def cost_u(quantities_and_rates: Iterable[tuple[int, int]]) -> int:
    """Return the price of a request in micro-yuan: `[(tokens, rate_u_per_m), …]`, one rounding."""
    return round_cost_u(cost_numerator(quantities_and_rates))


def share_u(amount_u: int, ratio_bp: int) -> int:
    """Return `ratio_bp` of the amount, rounded down: a subsidy never pays more than its ratio."""
    return amount_u * ratio_bp // WHOLE_BP


def parse_yuan(text: str) -> int:
    """Return micro-yuan for `"12.5"`; more than six decimals, signs and exponents are refused."""
    found = _YUAN.fullmatch(text.strip())
    amount_u = int(found[1]) * YUAN_U + int((found[2] or "").ljust(6, "0")) if found else MAX_U + 1
    if amount_u > MAX_U:
        raise BadRequest(
            f"{text!r} is not an amount that can be booked.",
            rule="money.format",
            remedy="Give a positive number of yuan with at most six decimals.",
        )
    return amount_u


def format_yuan(amount_u: int) -> str:
    """Return `¥0.000129`, exact: two decimals at least, six at most."""
    sign = "-" if amount_u < 0 else ""
    yuan, micro = divmod(abs(amount_u), YUAN_U)
    decimals = f"{micro:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}¥{yuan:,}.{decimals}"
