"""Numbers are said twice and agree; plurals are English."""

from random import Random

import pytest

from catalog.seed.listing_translator_mini import measures
from catalog.seed.listing_translator_mini.lexicon import load
from catalog.seed.listing_translator_mini.plural import counted, plural


@pytest.mark.parametrize("kind", sorted(measures.SIZES))
def test_a_size_keeps_its_digits(kind: str) -> None:
    rng = Random(1)
    for _ in range(50):
        size = measures.SIZES[kind](rng)
        digits = [[c for c in side if c.isdigit()] for side in (size.zh, size.en)]
        assert digits[0] == digits[1]


def test_every_category_asks_for_sizes_that_exist() -> None:
    for category in load().categories:
        assert set(category.sizes) <= set(measures.SIZES)
        assert set(category.quantities) <= {"pack", "set", "pairs", "pieces", "bonus"}


def test_chinese_numerals_are_read() -> None:
    found = {m.zh: m.en for m in (measures.pack(rng, "件") for rng in map(Random, range(400)))}
    assert found["两件装"] == "Pack of 2"
    assert found["十二件装"] == "Pack of 12"


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("T-Shirt", "T-Shirts"),
        ("Dress", "Dresses"),
        ("Hairbrush", "Hairbrushes"),
        ("Watch", "Watches"),
        ("Lunch Box", "Lunch Boxes"),
        ("Battery", "Batteries"),
        ("Ashtray", "Ashtrays"),
        ("Steak Knife", "Steak Knives"),
        ("Scarf", "Scarves"),
        ("Artificial Leaf", "Artificial Leaves"),
        ("Toy Goose", "Toy Geese"),
        ("Toy Sheep", "Toy Sheep"),
        ("Mouse", "Mice"),
        ("Chest of Drawers", "Chests of Drawers"),
        ("Camera Lens", "Camera Lenses"),
        ("Jeans", "Jeans"),
        ("Coffee Pot", "Coffee Pots"),
        ("Photo Frame", "Photo Frames"),
    ],
)
def test_plural(one: str, many: str) -> None:
    assert plural(one) == many


def test_what_comes_in_pairs_is_counted_in_pairs() -> None:
    assert counted(3, "Kitchen Scissors") == ("Set of 3 Pairs of", "Kitchen Scissors")
    assert counted(6, "Dinner Knife") == ("Set of 6", "Dinner Knives")
