"""Prices: worked costs, an estimate that is never too small, and documents that are refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest, Conflict
from marketplace.prices.components import (
    Buckets,
    Components,
    OffPeak,
    Tier,
    canonical,
    cost_u,
    estimate_u,
    parse_components,
    ratio_bp,
)
from marketplace.prices.versions import Period, check_periods, diff

MINUTE = 60_000_000
MIDNIGHT = 1_767_196_800_000_000
"""2026-01-01T00:00 in Beijing."""


def test_one_rounding() -> None:
    # 3 tokens at ¥0.40/M = 1.2 and 1 at ¥0.30/M = 0.3: 1.5 micro-yuan, half up 2. Rounding each: 1 + 0.
    price = Components(input_u_per_m=400_000, output_u_per_m=300_000)
    assert cost_u(Buckets(3, 0, 0, 1, 0), price, at_us=0) == 2


def test_cached_tokens_at_their_own_rate() -> None:
    # 1,000 in, 800 of them cached, 100 out of which 40 reasoning; ¥2, ¥0.2, ¥8 and ¥10 a million:
    # 200x2 + 800x0.2 + 60x8 + 40x10 = 400 + 160 + 480 + 400 = 1,440 micro-yuan.
    price = Components(
        input_u_per_m=2_000_000,
        output_u_per_m=8_000_000,
        cache_read_u_per_m=200_000,
        reasoning_u_per_m=10_000_000,
    )
    assert cost_u(Buckets(200, 800, 0, 60, 40), price, at_us=0) == 1_440
    # Without rates of their own they are input and output: 1,000x2 + 100x8 = 2,800.
    plain = Components(input_u_per_m=2_000_000, output_u_per_m=8_000_000)
    assert cost_u(Buckets(200, 800, 0, 60, 40), plain, at_us=0) == 2_800


def test_calls_pictures_and_seconds() -> None:
    price = Components(0, 0, request_u=7, image_u=100, second_u=30)
    # 7 + 2x100 + 1.05 s x 30 = 238.5, half up 239.
    assert cost_u(Buckets(5, 0, 0, 5, 0, images=2, duration_ms=1_050), price, at_us=0) == 239
    assert estimate_u(price, 5, 5, at_us=0, images=2, duration_ms=1_050) == 239


def test_tiers_price_the_whole_call_by_its_input() -> None:
    price = Components(1_000_000, 4_000_000, tiers=(Tier(1000, 2_000_000, 8_000_000),))
    assert cost_u(Buckets(600, 400, 0, 10, 0), price, at_us=0) == 1_000 + 40
    assert cost_u(Buckets(601, 400, 0, 10, 0), price, at_us=0) == 2_002 + 80


def test_a_shorter_input_may_be_the_dearer_one() -> None:
    # Up to 100 tokens at ¥9 a million, beyond at ¥1: 120 cost 120 micro-yuan, but 100 would cost 900.
    price = Components(9_000_000, 0, tiers=(Tier(100, 1_000_000, 0), Tier(200, 500_000, 0)))
    assert [estimate_u(price, tokens, 0, at_us=0) for tokens in (90, 120, 250)] == [810, 900, 900]


def test_off_peak_in_beijing_across_midnight() -> None:
    price = Components(
        3, 0, off_peak=(OffPeak("23:00", "00:30", 5000), OffPeak("12:00", "13:00", 0))
    )
    at = {
        -61: 10_000,
        -60: 5000,
        -1: 5000,
        0: 5000,
        29: 5000,
        30: 10_000,
        12 * 60: 0,
        13 * 60: 10_000,
    }
    assert {minute: ratio_bp(price, MIDNIGHT + minute * MINUTE) for minute in at} == at
    # 500,000 tokens at 3 micro-yuan a million = 1.5; half of it 0.75, rounded once to 1.
    assert cost_u(Buckets(500_000, 0, 0, 0, 0), price, at_us=MIDNIGHT) == 1


def test_a_free_price_is_legal() -> None:
    free = parse_components('{"input_u_per_m":0,"output_u_per_m":0}')
    assert cost_u(Buckets(10**6, 0, 0, 10**6, 0), free, at_us=0) == 0
    assert estimate_u(free, 10**6, 10**6, at_us=0) == 0


_rate = st.integers(0, 9_000_000)
_maybe = st.one_of(st.none(), _rate)
_tier = st.builds(Tier, st.integers(1, 400), _rate, _rate, _maybe, _maybe, _maybe)
_price = st.builds(
    Components,
    _rate,
    _rate,
    _maybe,
    _maybe,
    _maybe,
    request_u=st.integers(0, 50),
    tiers=st.lists(_tier, max_size=3, unique_by=lambda tier: tier.over_input_tokens).map(
        lambda tiers: tuple(sorted(tiers, key=lambda tier: tier.over_input_tokens))
    ),
    off_peak=st.sampled_from([(), (OffPeak("22:00", "08:00", 3333),)]),
)
_counts = st.tuples(*[st.integers(0, 200)] * 5)


@given(_price, _counts, st.integers(0, 100), st.integers(0, 100), st.integers(0, 2 * 1440))
def test_no_call_costs_more_than_its_estimate(
    price: Components, counts: tuple[int, ...], more_in: int, more_out: int, minute: int
) -> None:
    used = Buckets(*counts)
    at_us = MIDNIGHT + minute * MINUTE
    bound = estimate_u(
        price, used.input_tokens + more_in, used.output + used.reasoning + more_out, at_us=at_us
    )
    assert 0 <= cost_u(used, price, at_us=at_us) <= bound


@given(_price, _counts, st.integers(0, 2 * 1440))
def test_the_cost_is_the_exact_sum_rounded_once(
    price: Components, counts: tuple[int, ...], minute: int
) -> None:
    at_us = MIDNIGHT + minute * MINUTE
    length = sum(counts[:3])
    rates: Components | Tier = price
    for tier in price.tiers:
        rates = tier if length > tier.over_input_tokens else rates
    fallback = (rates.input_u_per_m, rates.output_u_per_m)
    each = (
        fallback[0],
        fallback[0] if rates.cache_read_u_per_m is None else rates.cache_read_u_per_m,
        fallback[0] if rates.cache_write_u_per_m is None else rates.cache_write_u_per_m,
        fallback[1],
        fallback[1] if rates.reasoning_u_per_m is None else rates.reasoning_u_per_m,
    )
    exact = (
        Fraction(sum(n * rate for n, rate in zip(counts, each, strict=True)), 10**6)
        + price.request_u
    )
    exact *= Fraction(ratio_bp(price, at_us), 10_000)
    assert cost_u(Buckets(*counts), price, at_us=at_us) == int(exact + Fraction(1, 2))


@given(_price)
def test_canonical_text_reads_back_and_keeps_its_hash(price: Components) -> None:
    text, sha256 = canonical(price)
    assert parse_components(text) == price
    assert canonical(parse_components(text)) == (text, sha256)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "input_u_per_m"),
        ('{"input_u_per_m":1.5,"output_u_per_m":0}', "int"),
        ('{"input_u_per_m":-1,"output_u_per_m":0}', "between 0"),
        ('{"input_u_per_m":0,"output_u_per_m":2000000000000}', "between 0"),
        ('{"input_u_per_m":0,"output_u_per_m":0,"outptu":1}', "outptu"),
        (
            '{"input_u_per_m":0,"output_u_per_m":0,"tiers":'
            '[{"over_input_tokens":0,"input_u_per_m":0,"output_u_per_m":0}]}',
            "rise",
        ),
        (
            '{"input_u_per_m":0,"output_u_per_m":0,"off_peak":[{"from":"24:00","to":"01:00","ratio_bp":1}]}',
            "time of day",
        ),
        (
            '{"input_u_per_m":0,"output_u_per_m":0,"off_peak":[{"from":"22:00","to":"02:00","ratio_bp":1},'
            '{"from":"01:59","to":"03:00","ratio_bp":2}]}',
            "overlaps",
        ),
        (
            '{"input_u_per_m":0,"output_u_per_m":0,"off_peak":[{"from":"22:00","to":"02:00","ratio_bp":10001}]}',
            "10,000 bp",
        ),
        ("", "not a price"),
    ],
)
def test_prices_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        parse_components(text)


def test_a_diff_reads_like_a_notice() -> None:
    old = Components(2_000_000, 8_000_000)
    new = Components(
        2_500_000,
        8_000_000,
        cache_read_u_per_m=200_000,
        tiers=(Tier(128_000, 5_000_000, 8_000_000),),
        off_peak=(OffPeak("00:30", "08:30", 2500),),
    )
    assert [change.text for change in diff(old, new)] == [
        "input: ¥2.00 → ¥2.50 per million tokens (+25.0 %)",
        "cached input: ¥2.00 → ¥0.20 per million tokens (-90.0 %)",
        "cache writes: ¥2.00 → ¥2.50 per million tokens (+25.0 %)",
        "over 128,000 input tokens, input: none → ¥5.00 per million tokens",
        "over 128,000 input tokens, output: none → ¥8.00 per million tokens",
        "over 128,000 input tokens, cached input: none → ¥5.00 per million tokens",
        "over 128,000 input tokens, cache writes: none → ¥5.00 per million tokens",
        "over 128,000 input tokens, reasoning: none → ¥8.00 per million tokens",
        "off-peak: none → 00:30 to 08:30 at 25 %",
    ]
    assert diff(new, new) == ()
    assert diff(None, old)[0].text == "input: none → ¥2.00 per million tokens"


def test_periods_that_overlap() -> None:
    check_periods([Period("b", 10, None), Period("a", 0, 10)])
    with pytest.raises(Conflict, match="a and b"):
        check_periods([Period("b", 10, None), Period("a", 0, 11)])
    with pytest.raises(Conflict, match="a and b"):
        check_periods([Period("b", 10, 20), Period("a", 0, None)])
    with pytest.raises(Conflict, match="before it begins"):
        check_periods([Period("a", 5, 5)])
