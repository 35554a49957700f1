"""Co-funders' shares: exact to one micro-yuan at any total, whatever the order of draws and refunds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest
from marketplace.vouchers.split import FunderSplit, between, drawn, word

WHOLE = 10_000


@st.composite
def shares(draw: st.DrawFn) -> tuple[int, ...]:
    cuts = sorted(draw(st.lists(st.integers(0, WHOLE), min_size=0, max_size=5)))
    bounds = [0, *cuts, WHOLE]
    return tuple(b - a for a, b in pairwise(bounds))


@settings(max_examples=25, deadline=None)
@given(shares())
def test_every_prefix_is_within_tijdemans_bound(shares_bp: tuple[int, ...]) -> None:
    funders = sum(1 for share in shares_bp if share)
    grain = max(1, 2 * funders - 2)
    counts = [0] * len(shares_bp)
    for position, letter in enumerate(word(shares_bp), 1):
        counts[letter] += 1
        for count, share in zip(counts, shares_bp, strict=True):
            # |count - position*share/10⁴| <= 1 - 1/(2n-2), both sides times 10⁴ (2n-2).
            assert abs(count * WHOLE - position * share) * grain <= (grain - 1) * WHOLE
    assert tuple(counts) == shares_bp


@settings(max_examples=60, deadline=None)
@given(shares(), st.lists(st.integers(0, 25_000), min_size=1, max_size=12))
def test_draws_and_refunds_add_up(shares_bp: tuple[int, ...], totals: list[int]) -> None:
    """The grant's total wanders; what each funder paid follows it, whatever the steps were."""
    paid, at = [0] * len(shares_bp), 0
    for total in totals:
        step = between(shares_bp, at, total)
        assert sum(step) == total - at
        assert all(part >= 0 for part in step) if total >= at else all(part <= 0 for part in step)
        paid, at = [a + b for a, b in zip(paid, step, strict=True)], total
        assert tuple(paid) == drawn(shares_bp, at)
        for part, share in zip(paid, shares_bp, strict=True):
            assert abs(part * WHOLE - at * share) < WHOLE


def test_a_hundred_thousand_draws_of_one_micro_yuan() -> None:
    # The largest remainder of each single draw would give all of it to the first funder.
    paid = [0, 0, 0]
    for total in range(100_000):
        step = between((5000, 3000, 2000), total, total + 1)
        paid = [a + b for a, b in zip(paid, step, strict=True)]
    assert paid == [50_000, 30_000, 20_000]


def test_boundary_floors_would_take_money_back_here() -> None:
    # Shares 50/5/45: cutting at floor(T x cumulated share) gives funder 2 ⌊17x0.55⌋-⌊17x0.5⌋ = 9-8 = 1
    # at T = 17 and ⌊9.9⌋-⌊9⌋ = 0 at T = 18: one micro-yuan is taken back. Here nobody ever loses.
    for total in range(10_000):
        assert min(between((5000, 500, 4500), total, total + 1)) >= 0


def test_shares_change_when_a_funder_has_run_out() -> None:
    first = FunderSplit([(0, (("gd", 5000), ("sz", 3000), ("nanshan", 2000)))])
    # At T = 40,000 nanshan has paid its last; gd and sz rescale to 62.5 % and 37.5 %.
    split = FunderSplit(first.then(40_000, (("gd", 6250), ("sz", 3750))))
    assert split.funders == ("gd", "sz", "nanshan")
    assert split.drawn(40_000) == first.drawn(40_000) == (20_000, 12_000, 8_000)
    assert split.between(40_000, 48_000) == (5_000, 3_000, 0)
    # A refund of 10,000 gives the last 8,000 back to the two, and 2,000 to the three who paid before.
    assert split.between(48_000, 38_000) == (-6_000, -3_600, -400)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30_000), shares()), max_size=3), st.integers(0, 100_000))
def test_epochs_stay_within_a_micro_yuan_each(
    changes: list[tuple[int, tuple[int, ...]]], total: int
) -> None:
    start, epochs = 0, [(0, (("a", 7000), ("b", 3000)))]
    for gap, shares_bp in changes:
        start += gap
        epochs.append((start, tuple((f"f{i}", bp) for i, bp in enumerate(shares_bp))))
    split = FunderSplit(epochs)
    paid = dict(zip(split.funders, split.drawn(total), strict=True))
    assert sum(paid.values()) == total
    ends = [start for start, _ in epochs[1:]] + [max(total, start)]
    for funder, amount in paid.items():
        exact = sum(
            max(0, min(end, total) - begin) * dict(parts).get(funder, 0)
            for (begin, parts), end in zip(epochs, ends, strict=True)
        )
        assert abs(amount * WHOLE - exact) < WHOLE * len(epochs)


@pytest.mark.parametrize("shares_bp", [(), (9_999,), (5_000, 5_001), (10_001, -1)])
def test_shares_that_are_not_a_whole_are_refused(shares_bp: tuple[int, ...]) -> None:
    with pytest.raises(BadRequest, match="sum to 10,000"):
        word(shares_bp)


def test_epochs_that_go_back_are_refused() -> None:
    whole = (("gd", 10_000),)
    for starts in ([], [5], [0, 9, 8]):
        with pytest.raises(BadRequest, match="first must be 0"):
            FunderSplit([(start, whole) for start in starts])
