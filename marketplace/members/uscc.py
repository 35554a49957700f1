"""统一社会信用代码: an organisation's unified social credit code, checked by its own arithmetic.

GB 32100-2015: eighteen characters from digits and capital letters without I, O, S, V and Z.

    9 1  4 4 0 3 0 0  M A 5 F 3 7 4 8 6  J
    │ │  └ region ┘   └ GB 11714 body ┘  └ check character over the first seventeen (modulus 31)
    │ └ kind of organisation
    └ registering authority

The body is an organisation code of its own: eight characters and a check character (modulus 11).
A code that passes was not mistyped; whether it was ever issued, only the register can say.
"""

from __future__ import annotations

from catalog.ground.errors import BadRequest

_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_WEIGHTS = tuple(pow(3, place, 31) for place in range(17))
_BODY_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)
_LENGTH = 18
_SEPARATORS = str.maketrans("", "", " -\u3000")


def check_character(first: str) -> str:
    """Return the eighteenth character for the first seventeen (31 - Σ Cᵢ·3ⁱ⁻¹ mod 31)."""
    total = sum(_VALUES[letter] * weight for letter, weight in zip(first, _WEIGHTS, strict=True))
    return _ALPHABET[-total % 31]


def body_check_character(body: str) -> str:
    """Return the ninth character of the organisation code for its first eight (GB 11714-1997)."""
    # In GB 11714, letters count from A = 10 without gaps, so the code's own alphabet does not serve.
    total = sum(
        int(letter, 36) * weight for letter, weight in zip(body, _BODY_WEIGHTS, strict=True)
    )
    rest = -total % 11
    return "X" if rest == 10 else str(rest)


def parse(text: str) -> str:
    """Return the code in its one form: capitals, no spaces. BadRequest says which character is wrong.

    Full-width characters and spaces or hyphens between groups, as people paste them, are accepted.
    """
    code = "".join(_narrow(letter) for letter in text).translate(_SEPARATORS).upper()
    if len(code) != _LENGTH:
        raise _refuse("length", f"It has {len(code)} characters.", "A code has 18.")
    for place, letter in enumerate(code, 1):
        if letter not in _VALUES:
            hint = {"I": "1", "O": "0", "S": "5", "Z": "2", "V": "U"}.get(letter)
            remedy = f"Is it {hint}?" if hint else "Use digits and capital letters."
            raise _refuse(
                "letter", f"Character {place} is {letter!r}, which no code contains.", remedy
            )
    if not code[2:8].isdecimal():
        raise _refuse("region", f"{code[2:8]!r} is not a region.", "Characters 3 to 8 are digits.")
    if code[17] != check_character(code[:17]):
        raise _refuse(
            "check",
            "Its check character does not fit the other seventeen: one of them is wrong.",
            "Compare it with the business licence.",
        )
    return code


def has_sound_body(code: str) -> bool:
    """Return whether the organisation code inside has a fitting check character of its own.

    Not part of `parse`: codes issued before the body's own check was looked at would be turned away.
    """
    return code[16] == body_check_character(code[8:16])


def region(code: str) -> str:
    """Return the region where it was registered, a code of GB/T 2260 such as `440300`."""
    return code[2:8]


def mask(code: str) -> str:
    """Return the code for display to others: `91440300********6J`, the kind and region left readable."""
    return code[:8] + "*" * (len(code) - 10) + code[-2:] if len(code) > 10 else "*" * len(code)


def _narrow(letter: str) -> str:
    return chr(ord(letter) - 0xFEE0) if "！" <= letter <= "～" else letter


def _refuse(rule: str, message: str, remedy: str) -> BadRequest:
    return BadRequest(
        f"This is not a 统一社会信用代码. {message}",
        code="bad_uscc",
        rule=f"GB 32100 {rule}",
        param="uscc",
        remedy=remedy,
    )
