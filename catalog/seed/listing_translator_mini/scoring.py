"""What counts as right: the whole title, and every number and size in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBER_OR_SIZE = re.compile(r"One Size|Size [A-Z0-9.]+|\b[AB]\d\b|\d+(?:\.\d+)?")


def numbers_and_sizes(title: str) -> Counter[str]:
    """The numbers, letter sizes and paper sizes of an English title, with repeats."""
    return Counter(_NUMBER_OR_SIZE.findall(title))


@dataclass(frozen=True)
class Score:
    """Counts over a held-out file; shares are of all titles, or of all numbers and sizes."""

    titles: int
    exact: int
    numbers: int
    numbers_preserved: int

    def as_row(self) -> dict[str, float | int]:
        """The score as printed."""
        return {
            "titles": self.titles,
            "exact": self.exact,
            "exact_share": round(self.exact / self.titles, 5),
            "numbers": self.numbers,
            "numbers_preserved": self.numbers_preserved,
            "numbers_preserved_share": round(self.numbers_preserved / max(1, self.numbers), 5),
        }


def score(pairs: Iterable[tuple[str, str]]) -> Score:
    """Score (expected, produced) titles."""
    titles = exact = numbers = preserved = 0
    for expected, produced in pairs:
        wanted = numbers_and_sizes(expected)
        titles += 1
        exact += expected == produced
        numbers += wanted.total()
        preserved += (wanted & numbers_and_sizes(produced)).total()
    return Score(titles, exact, numbers, preserved)
