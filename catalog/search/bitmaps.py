"""Sets of small numbers as the bits of one integer: intersection and counting at memory speed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress, count

_ONE = ord("1")
_TO_TRUTH = bytes.maketrans(b"01", b"\0\1")


def from_numbers(numbers: Iterable[int], size: int) -> int:
    """Return the set of those `numbers` that are below `size`."""
    digits = bytearray(b"0") * (size + 1)
    try:
        for number in numbers:
            digits[size - number] = _ONE
    except IndexError:  # rare, and testing every number costs as much as setting its bit
        return from_numbers([number for number in numbers if number < size], size)
    return int(digits, 2)


def to_numbers(bits: int) -> list[int]:
    """Return the members, ascending."""
    digits = format(bits, "b")[::-1].encode().translate(_TO_TRUTH)
    return list(compress(count(), digits))
