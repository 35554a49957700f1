"""Held-out titles cannot have been trained on, and the committed files are the grammar's own."""

from itertools import islice

import pytest

from catalog.seed.listing_translator_mini import splits
from catalog.seed.listing_translator_mini.grammar import TRAINING, Title
from catalog.seed.listing_translator_mini.lexicon import load


@pytest.mark.parametrize("path", splits.SEEDS, ids=lambda path: path.stem)
def test_the_file_is_what_the_grammar_writes(path: splits.Path) -> None:
    assert path.read_text(encoding="utf-8") == splits.heldout_text(path)
    assert len(splits.read_rows(path)) == splits.ROWS


def test_training_never_draws_a_held_out_title() -> None:
    held = {zh for path in splits.SEEDS for zh, _ in splits.read_rows(path)}
    drawn = list(islice(splits.titles(7, "train", TRAINING), 5000))
    assert {splits.split_of(title) for title in drawn} == {"train"}
    assert not held & {title.zh for title in drawn}


def test_the_split_looks_at_words_alone() -> None:
    words = frozenset({"style:Vintage", "material:Cotton", "cut:V-Neck"})
    red, blue = (Title("", en, "tops:Shirt", words) for en in ("Red, Size 1", "Blue, Size 2"))
    assert splits.split_of(red) == splits.split_of(blue)


def test_a_single_modifier_is_never_held_out() -> None:
    for category in load().categories:
        for product in category.products:
            title = Title("", "", f"{category.name}:{product.en}", frozenset({"style:Cute"}))
            assert splits.split_of(title) == "train"


def test_there_are_far_more_combinations_than_training_sees() -> None:
    assert splits.combination_count(load()) > 10**10
