"""Money is whole numbers; there is one rounding."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest
from catalog.ground.units import cost_u, format_yuan, parse_yuan, share_u

tokens = st.integers(0, 10**9)
rates = st.integers(0, 10**9)


@given(st.lists(st.tuples(tokens, rates), max_size=6))
def test_a_cost_is_the_exact_sum_rounded_half_up_once(parts: list[tuple[int, int]]) -> None:
    exact = sum((Fraction(q * r, 1_000_000) for q, r in parts), Fraction(0))
    assert Fraction(-1, 2) < exact - cost_u(parts) + 0 <= Fraction(1, 2) or (
        cost_u(parts) - exact == Fraction(1, 2)
    )


def test_one_token_at_one_yuan_a_million_is_one_micro_yuan() -> None:
    assert cost_u([(1, 1_000_000)]) == 1
    assert cost_u([(1, 499_999)]) == 0
    assert cost_u([(1, 500_000)]) == 1


@given(st.integers(0, 2**62))
def test_yuan_read_what_they_write(amount_u: int) -> None:
    assert parse_yuan(format_yuan(amount_u).removeprefix("¥").replace(",", "")) == amount_u


NO_AMOUNTS = (
    "-1 1e99 nan 1.0000001 ten inf 1e3 +5 -0 1_000 １２ sNaN 1e999999999 9223372036854.775808 1."
)


@pytest.mark.parametrize("text", ["", *NO_AMOUNTS.split()])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_yuan(text)


@given(st.integers(0, 10**15), st.integers(0, 10_000))
def test_a_share_never_pays_more_than_its_ratio(amount_u: int, ratio_bp: int) -> None:
    assert share_u(amount_u, ratio_bp) <= Fraction(amount_u * ratio_bp, 10_000)
