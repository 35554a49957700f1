"""Which titles training may see, decided by hash, and the two held-out files.

A title is *hard* when its product stands together with two modifiers that were kept apart from
training as a combination of three; otherwise it is *heldout* when its whole set of words falls in
the kept-out twentieth. Numbers and colours do not count, so changing them hides nothing.

    python -m catalog.seed.listing_translator_mini.splits     # writes both files again
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import combinations
from math import prod
from pathlib import Path

from catalog.seed.listing_translator_mini.grammar import HARD, ORDINARY, Shape, Title, draw, source
from catalog.seed.listing_translator_mini.lexicon import Lexicon, load

FOLDER = Path(__file__).parent
HELDOUT = FOLDER / "heldout.jsonl"
HELDOUT_HARD = FOLDER / "heldout_hard.jsonl"
ROWS = 500
SEEDS = {HELDOUT: 20261101, HELDOUT_HARD: 20261102}
HELDOUT_ONE_IN = 20
TRIPLES_KEPT_PER_MILLE = 15


def _bucket(parts: tuple[str, ...], buckets: int) -> int:
    digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


def split_of(title: Title) -> str:
    """``train``, ``heldout`` or ``hard``."""
    words = sorted(title.words)
    for pair in combinations(words, 2):
        if _bucket((title.product, *pair), 1000) < TRIPLES_KEPT_PER_MILLE:
            return "hard"
    # One word is not a combination: keeping those out would keep the word itself from training.
    if len(words) >= 2 and _bucket((title.product, *words), HELDOUT_ONE_IN) == 0:
        return "heldout"
    return "train"


def titles(seed: int, split: str, shape: Shape) -> Iterator[Title]:
    """Endless titles of one split, the same ones for the same seed."""
    lexicon, rng = load(), source(seed)
    while True:
        title = draw(lexicon, rng, shape)
        if split_of(title) == split:
            yield title


def heldout_text(path: Path) -> str:
    """The contents of one held-out file, byte for byte."""
    split, shape = ("heldout", ORDINARY) if path == HELDOUT else ("hard", HARD)
    rows: dict[str, str] = {}
    for title in titles(SEEDS[path], split, shape):
        rows[title.zh] = title.en
        if len(rows) == ROWS:
            break
    lines = (json.dumps({"zh": zh, "en": en}, ensure_ascii=False) for zh, en in rows.items())
    return "".join(line + "\n" for line in lines)


def read_rows(path: Path) -> list[tuple[str, str]]:
    """The (Chinese, English) pairs of a held-out file."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(row["zh"], row["en"]) for row in rows]


def combination_count(lexicon: Lexicon) -> int:
    """How many products with at most one word a slot exist, numbers and colours left out."""
    return sum(
        len(category.products) * prod(len(group) + 1 for group in category.modifiers.values())
        for category in lexicon.categories
    )


def main() -> int:
    """Write both files and say how large the grammar is."""
    for path in SEEDS:
        path.write_text(heldout_text(path), encoding="utf-8")
        print(f"wrote {ROWS} rows to {path.name}", file=sys.stderr)
    print(f"{combination_count(load()):,} combinations of words", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
