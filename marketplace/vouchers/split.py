"""How co-funders share a grant's draws, without a row per funder.

The share of each funder is a pure function of one number, the grant's posted total T in micro-yuan. A
programme version fixes a cyclic word of 10,000 letters, one per basis point; micro-yuan number k belongs
to the funder named by letter k mod 10,000. So `drawn(T)` is two look-ups a funder, a draw from T₀ to T₁
costs each exactly `drawn(T₁) - drawn(T₀)`, never negative and summing to the draw, and a refund is the
same draw run backwards.

The letters are laid by Tijdeman's rule for the chairman assignment problem (R. Tijdeman, Discrete
Mathematics 32, 1980): among the letters that are due, the one with the earliest deadline. With n
funders every prefix is then within 1 - 1/(2n - 2) of its exact share, so nobody is ever one micro-yuan
off. The two obvious rules fail: flooring each boundary can take money back from a funder, and picking
the largest deficit can pass one micro-yuan.

When shares change (a funder has run out), a new word begins at the T of that moment: `FunderSplit`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from catalog.ground.errors import BadRequest
from catalog.ground.units import WHOLE_BP

Shares = tuple[tuple[str, int], ...]
"""`(("gd", 5000), ("sz", 3000), ("nanshan", 2000))`: funder and basis points, 10,000 in all."""


@lru_cache(maxsize=512)
def word(shares_bp: tuple[int, ...]) -> tuple[int, ...]:
    """Return the 10,000 letters (positions in `shares_bp`); about 15 ms, then kept."""
    if sum(shares_bp) != WHOLE_BP or min(shares_bp) < 0:
        raise BadRequest(
            f"Funder shares {list(shares_bp)} must be at least 0 and sum to 10,000 basis points.",
            rule="funders.share_bp",
        )
    paying = [i for i, share in enumerate(shares_bp) if share]
    if len(paying) == 1:
        return (paying[0],) * WHOLE_BP
    # With grain g = 2n - 2 the bound is (g - 1)/g; everything is scaled by g to stay in whole numbers.
    grain = 2 * len(paying) - 2
    counts = [0] * len(shares_bp)
    letters = []
    for position in range(1, WHOLE_BP + 1):
        due = [
            i
            for i in paying
            if (position * shares_bp[i] - counts[i] * WHOLE_BP) * grain >= WHOLE_BP
        ]
        # The deadline of a letter is (count + bound) / share.
        pick = min(due, key=lambda i: ((counts[i] * grain + grain - 1) / shares_bp[i], i))
        counts[pick] += 1
        letters.append(pick)
    return tuple(letters)


@lru_cache(maxsize=512)
def _prefixes(shares_bp: tuple[int, ...]) -> tuple[array[int], ...]:
    tables = tuple(array("H", bytes(2 * WHOLE_BP)) for _ in shares_bp)
    counts = [0] * len(shares_bp)
    for position, letter in enumerate(word(shares_bp)):
        for table, count in zip(tables, counts, strict=True):
            table[position] = count
        counts[letter] += 1
    return tables


def drawn(shares_bp: tuple[int, ...], total_u: int) -> tuple[int, ...]:
    """Return what each funder has paid of the first `total_u` micro-yuan of a grant."""
    rounds, position = divmod(total_u, WHOLE_BP)
    tables = _prefixes(shares_bp)
    return tuple(
        rounds * share + table[position] for share, table in zip(shares_bp, tables, strict=True)
    )


def between(shares_bp: tuple[int, ...], from_u: int, to_u: int) -> tuple[int, ...]:
    """Return what each funder pays as the grant's total goes from `from_u` to `to_u`.

    All are >= 0 and sum to `to_u - from_u`; for a refund (`to_u` < `from_u`) all are <= 0.
    """
    before, after = drawn(shares_bp, from_u), drawn(shares_bp, to_u)
    return tuple(b - a for a, b in zip(before, after, strict=True))


class FunderSplit:
    """The split of one grant through its epochs: `[(from_total_u, shares), …]`, the first from 0.

    Funders may come and go between epochs. Each epoch adds less than one micro-yuan to how far a funder
    can be from its exact share. A refund that reaches back before an epoch's start goes to those who
    paid then; what is drawn again up to that start is paid by them again.
    """

    __slots__ = ("_epochs", "funders")

    def __init__(self, epochs: Sequence[tuple[int, Shares]]) -> None:
        starts = [start for start, _ in epochs]
        if not epochs or starts[0] != 0 or any(b < a for a, b in pairwise(starts)):
            raise BadRequest(
                f"Epochs start at {starts}: the first must be 0 and none may go back.",
                rule="funders.epochs",
            )
        for _, shares in epochs:
            if len({funder for funder, _ in shares}) != len(shares):
                raise BadRequest("A funder is named twice.", rule="funders.unique")
        self.funders: tuple[str, ...] = tuple(
            dict.fromkeys(f for _, shares in epochs for f, _ in shares)
        )
        # Every epoch speaks of all funders, so that its numbers add up by position.
        self._epochs = tuple(
            (start, tuple(dict(shares).get(funder, 0) for funder in self.funders))
            for start, shares in epochs
        )
        for _, shares_bp in self._epochs:
            word(shares_bp)

    def drawn(self, total_u: int) -> tuple[int, ...]:
        """Return what each of `funders` has paid when the grant's posted total is `total_u`."""
        if total_u < 0:
            raise BadRequest("A grant's posted total cannot be negative.", rule="funders.total")
        sums = [0] * len(self.funders)
        ends = [start for start, _ in self._epochs[1:]] + [total_u]
        for (start, shares_bp), end in zip(self._epochs, ends, strict=True):
            reach = min(end, total_u) - start
            if reach > 0:
                sums = [a + b for a, b in zip(sums, drawn(shares_bp, reach), strict=True)]
        return tuple(sums)

    def between(self, from_u: int, to_u: int) -> tuple[int, ...]:
        """Return what each of `funders` pays as the total goes from `from_u` to `to_u` (see `between`)."""
        before, after = self.drawn(from_u), self.drawn(to_u)
        return tuple(b - a for a, b in zip(before, after, strict=True))

    def then(self, at_total_u: int, shares: Shares) -> Sequence[tuple[int, Shares]]:
        """Return the epochs for a split that changes to `shares` when the posted total is `at_total_u`."""
        kept = [
            (start, tuple(zip(self.funders, shares_bp, strict=True)))
            for start, shares_bp in self._epochs
            if start < at_total_u or start == 0
        ]
        return [*(kept if at_total_u else []), (at_total_u, shares)]
