"""The grammar: the same seed, the same titles; words that can be told apart; natural English."""

from collections import defaultdict
from random import Random

from catalog.seed.listing_translator_mini import grammar
from catalog.seed.listing_translator_mini.lexicon import SLOTS, load
from catalog.seed.listing_translator_mini.scoring import numbers_and_sizes


def draw(
    seed: int, shape: grammar.Shape = grammar.TRAINING, count: int = 200
) -> list[grammar.Title]:
    rng = Random(seed)
    return [grammar.draw(load(), rng, shape) for _ in range(count)]


def test_same_seed_same_titles() -> None:
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_at_least_300_product_words() -> None:
    products = {word.en for category in load().categories for word in category.products}
    assert len(products) >= 300


def test_a_chinese_word_has_one_meaning() -> None:
    meanings: dict[str, set[str]] = defaultdict(set)
    for word in load().words():
        for zh in word.zh:
            meanings[zh].add(word.en)
    meanings |= {zh: {"", *meanings.get(zh, set())} for zh in load().dropped}
    assert {zh: en for zh, en in meanings.items() if len(en) > 1} == {}


def test_no_product_reads_as_a_modifier_and_another_product() -> None:
    products = [(zh, c) for c in load().categories for word in c.products for zh in word.zh]
    for short, category in products:
        for group in category.modifiers.values():
            before = {zh for word in group for zh in word.zh}
            clash = [zh for zh, _ in products if zh.endswith(short) and zh[: -len(short)] in before]
            assert clash == [], f"{clash} can be read as a modifier and {short}"


def test_english_follows_the_order_of_slots() -> None:
    for title in draw(5, grammar.HARD):
        head, at = title.en.split(", ")[0], 0
        for slot in SLOTS[: SLOTS.index("extra")]:
            words = [w.split(":", 1)[1] for w in title.words if w.startswith(slot + ":")]
            named = title.product.partition(":")[2]
            said = [word for word in words if not named.startswith(word + " ")]
            ends = [head.index(word, at) + len(word) for word in said]
            at = max(ends, default=at)


def test_digits_of_the_chinese_title_reach_the_english_one() -> None:
    for title in draw(6, grammar.HARD):
        chinese = [n for n in numbers_and_sizes(title.zh).elements() if n[0].isdigit()]
        english = " ".join(numbers_and_sizes(title.en).elements())
        assert all(number in english for number in chinese), title
