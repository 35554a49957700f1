"""What counts as right."""

from catalog.seed.listing_translator_mini.scoring import numbers_and_sizes, score


def test_numbers_and_sizes_are_found() -> None:
    found = numbers_and_sizes("Set of 6 Diaries, Size 3XL, 12.5 cm Long, A4, One Size, Size 38.5")
    assert sorted(found) == ["12.5", "6", "A4", "One Size", "Size 38.5", "Size 3XL"]


def test_a_repeated_number_must_be_repeated() -> None:
    result = score([("30 x 30 cm", "30 x 3 cm"), ("Red Hat", "Red Hat")])
    assert (result.numbers, result.numbers_preserved) == (2, 1)
    assert (result.titles, result.exact) == (2, 1)
