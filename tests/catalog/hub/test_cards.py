"""Model cards come from strangers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.hub.cards import CardError, parse, texts


def test_a_card_becomes_plain_json() -> None:
    text = "---\nlicense: mit\ndate: 2026-01-02\nlanguage: [zh, en]\n1: one\n---\n# 标题\n---\n"
    card = parse(text)
    assert card == {"license": "mit", "date": "2026-01-02", "language": ["zh", "en"], "1": "one"}
    assert texts(card["language"]) == ["zh", "en"]
    assert parse("# no front matter") == parse("---\n---\n") == {}
    assert parse("---\r\nlicense: mit\r\n---\r\n") == {"license": "mit"}


def test_what_no_strict_parser_takes_is_replaced() -> None:
    card = parse('---\na: .nan\nb: [-.inf]\nc: "\\ud83d\\ude00"\nd: "\\ud800"\n---\n')
    assert card == {"a": None, "b": [None], "c": "😀", "d": "?"}


@pytest.mark.parametrize(
    ("front", "words"),
    [
        ("a: &x [1]\nb: [*x, *x]", "aliases"),
        ("- a\n- b", "mapping"),
        ("a: !!python/object/apply:os.system [id]", "python/object"),
        ("a: [1, 2", "expected"),
        ("a: " + "[" * 2000, "cannot be read|expected|found"),
        ("a: " + "x" * 70_000, "larger"),
    ],
)
def test_what_a_card_must_not_be(front: str, words: str) -> None:
    with pytest.raises(CardError, match=words):
        parse(f"---\n{front}\n---\n")


@given(front=st.text(max_size=200))
def test_any_text_is_a_card_or_an_error(front: str) -> None:
    try:
        assert isinstance(parse(f"---\n{front}\n---\n"), dict)
    except CardError:
        return
