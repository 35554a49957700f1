"""Characters come out whole, stop strings never leak, whatever the pieces look like."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from serving.onnx_engine.text import BROKEN, Detokenizer, StopMatcher

ALPHABET = st.text(alphabet="ab红é😀 \n", max_size=40)


@pytest.fixture(scope="module")
def tokenizer(variant: Path) -> Tokenizer:
    return Tokenizer.from_file(str(variant / "tokenizer.json"))


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*map(detokenizer.push, ids), detokenizer.flush()]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_pieces_make_the_text_and_no_character_is_split(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole = tokenizer.decode(ids)
    pieces = _pieces(tokenizer, ids)
    if BROKEN not in whole:
        assert "".join(pieces) == whole
        assert not any(BROKEN in piece for piece in pieces)


def test_a_chinese_character_and_an_emoji_wait_for_their_last_byte(tokenizer: Tokenizer) -> None:
    for character in "𠮷😀":
        ids = tokenizer.encode(character, add_special_tokens=False).ids
        assert len(ids) > 1, "the character must be made of several tokens to prove anything"
        *early, last, rest = _pieces(tokenizer, ids)
        assert early == [""] * (len(ids) - 1)
        assert last + rest == character


def test_half_a_character_at_the_end_is_dropped(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a😀", add_special_tokens=False).ids
    assert "".join(_pieces(tokenizer, ids[:-1])) == "a"


def test_bytes_that_never_make_a_character_do_not_hold_the_text_back(tokenizer: Tokenizer) -> None:
    stray = tokenizer.encode("😀", add_special_tokens=False).ids[-1]
    assert BROKEN in "".join(_pieces(tokenizer, [stray] * 20))


def _matched(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    matcher, shown = StopMatcher(stops), ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + matcher.flush(), False


@given(
    pieces=st.lists(st.text(alphabet="abc", max_size=4), max_size=12),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_string_is_found_over_any_borders(pieces: list[str], stops: list[str]) -> None:
    shown, stopped = _matched(pieces, tuple(stops))
    text = "".join(pieces)
    assert stopped == any(stop in text for stop in stops)
    if not stopped:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)


def test_what_might_become_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(("END",))
    assert matcher.push("the E") == ("the ", False)
    assert matcher.push("N") == ("", False)
    assert matcher.push("D of it") == ("", True)


def test_what_did_not_become_a_stop_string_is_shown_after_all() -> None:
    matcher = StopMatcher(("END",))
    assert matcher.push("the EN") == ("the ", False)
    assert matcher.push("V") == ("ENV", False)
