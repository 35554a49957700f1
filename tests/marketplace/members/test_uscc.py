"""统一社会信用代码: codes of the register pass, every single slip of the hand is caught."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest
from marketplace.members.uscc import check_character, has_sound_body, mask, parse, region

ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
KNOWN = ["91110000600037341L", "91110108551385082Q"]
_firsts = st.builds(
    lambda head, where, body: head + where + body,
    st.text(ALPHABET, min_size=2, max_size=2),
    st.text("0123456789", min_size=6, max_size=6),
    st.text(ALPHABET, min_size=9, max_size=9),
)


@pytest.mark.parametrize("code", KNOWN)
def test_codes_in_use(code: str) -> None:
    assert parse(code) == code
    assert has_sound_body(code)
    assert region(code) == code[2:8]


def test_the_worked_example_of_the_standard() -> None:
    # Σ Ci·Wi of 91350100M000100Y4 is 1,640 = 52x31 + 28, so the check value is 31 - 28 = 3, not Z.
    assert check_character("91350100M000100Y4") == "3"


def test_a_remainder_of_nothing_is_zero() -> None:
    # 31 - 0 = 31 is no character; the standard's modulus makes it 0.
    assert check_character("0" * 17) == "0"


def test_as_people_paste_them() -> None:
    assert parse(" 91110000-600037341l\u3000") == KNOWN[0]
    assert parse("９１１１００００６０００３７３４１Ｌ") == KNOWN[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 characters"),
        ("91110000600037341", "17 characters"),
        ("9111000060003734IL", "Character 17 is 'I'.*Is it 1"),
        ("91110000600O37341L", "Is it 0"),
        ("9111000060003734①L", "Character 17"),
        ("9111A000600037341L", "not a region"),
        ("91110000600037342L", "check character"),
    ],
)
def test_the_reason_is_named(text: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        parse(text)
    assert str(caught.value.rule).startswith("GB 32100")


@given(_firsts, st.integers(0, 17), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_always_caught(first: str, place: int, letter: str) -> None:
    code = first + check_character(first)
    assert parse(code) == code
    wrong = code[:place] + letter + code[place + 1 :]
    if wrong != code:
        with pytest.raises(BadRequest):
            parse(wrong)


@given(_firsts, st.integers(8, 15))
def test_two_neighbours_swapped_are_always_caught(first: str, place: int) -> None:
    code = first + check_character(first)
    wrong = code[:place] + code[place + 1] + code[place] + code[place + 2 :]
    if wrong != code:
        with pytest.raises(BadRequest):
            parse(wrong)


def test_masked_for_others() -> None:
    assert mask(KNOWN[0]) == "91110000********1L"
    assert mask("short") == "*****"
