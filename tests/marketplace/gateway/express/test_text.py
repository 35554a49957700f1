"""Digests, ids and strings of the compiled part are those of Python."""

from __future__ import annotations

import hashlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.ids import new_id as python_id

_core = pytest.importorskip("marketplace.gateway.express._core")

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SIZES = [*range(200), 1000, 4095, 4096, 4097, 50_000]


@pytest.mark.parametrize("portable", [False, True])
def test_sha_256_is_that_of_hashlib(portable: bool) -> None:
    chance = random.Random(1)
    for size in SIZES:
        data = chance.randbytes(size)
        assert _core.sha256(data, portable=portable) == hashlib.sha256(data).digest()


def test_a_digest_is_written_as_hashlib_writes_it() -> None:
    assert _core.hex_sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_written_in_full(value: int) -> None:
    assert _core.number(value) == b"%d" % value


@given(st.text())
def test_strings_are_written_as_msgspec_writes_them(text: str) -> None:
    assert _core.json_string(text) == msgspec.json.encode(text)


def test_every_character_is_written_as_msgspec_writes_it() -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert _core.json_string(everything) == msgspec.json.encode(everything)


def test_the_clocks_are_those_of_python() -> None:
    before = time.time_ns() // 1000, time.monotonic()
    wall_us, steady_s = _core.clocks()
    after = time.time_ns() // 1000, time.monotonic()
    assert before[0] <= wall_us <= after[0]
    assert before[1] <= steady_s <= after[1]


def number_of(ulid: str) -> int:
    value = 0
    for letter in ulid:
        value = value * 32 + CROCKFORD.index(letter)
    return value


def test_ids_are_laid_out_as_those_of_python() -> None:
    before_ms = time.time_ns() // 1_000_000
    made = [_core.new_id("gen") for _ in range(5000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(made)) == len(made)
    stamps: list[int] = []
    for last, name in zip(["", *made], made, strict=False):
        prefix, ulid = name.split("_")
        assert (prefix, len(ulid)) == ("gen", len(python_id("gen")) - 4)
        stamps.append(number_of(ulid) >> 80)
        assert before_ms <= stamps[-1] <= after_ms
        # Within a millisecond it counts on by one, until it draws anew.
        if last and last[4:28] == ulid[:24]:
            assert number_of(ulid) == number_of(last[4:]) + 1
    assert stamps == sorted(stamps)
    begun = {name[4:28]: number_of(name[-2:]) for name in reversed(made)}
    assert all(first < 512 for first in begun.values())  # so that there is room to count on
    assert len({shared[10:] for shared in begun}) == len(begun)


def test_threads_and_forked_processes_do_not_count_on_alike() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [name for names in pool.map(lambda _: some_ids(), range(4)) for name in names]
    assert len(set(made)) == len(made)
    reading, writing = os.pipe()
    _core.new_id("gen")
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(some_ids(50)).encode())
        os._exit(0)
    ours = some_ids(50)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = pipe.read().decode()
    assert len(theirs) == 50 * 30
    assert not {name[4:28] for name in ours} & {
        theirs[at + 4 : at + 28] for at in range(0, 1500, 30)
    }


def some_ids(count: int = 500) -> list[str]:
    return [_core.new_id("gen") for _ in range(count)]


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_utf_8_is_what_python_decodes() -> None:
    """Every pair of bytes, every edge of three and four, at every place of a block."""
    edges = [
        0x00,
        0x22,
        0x7F,
        0x80,
        0x8F,
        0x90,
        0x9F,
        0xA0,
        0xBF,
        0xC0,
        0xC1,
        0xC2,
        0xDF,
        0xE0,
        0xE1,
        0xEC,
    ]
    edges += [0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF]
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    threes = [bytes([a, b, c]) for a in edges for b in edges for c in edges]
    for number, sequence in enumerate(pairs + threes):
        before, behind = number % 37, number % 5
        data = b"a" * before + sequence + b"z" * behind
        told = decodes(data)
        assert _core.is_utf8(data) == _core.is_utf8(data, portable=True) == told, data


def test_utf_8_of_any_length_is_what_python_decodes() -> None:
    chance = random.Random(2)
    letters = [
        "a",
        "é",
        "中",
        "😀",
        "\ud7ff",
        "\ue000",
        "\uffff",
        "\U0010ffff",
        "\x7f",
        "\x80",
        "\u07ff",
        "ࠀ",
    ]
    found = 0
    for _ in range(20_000):
        data = bytearray("".join(chance.choices(letters, k=chance.randrange(60))).encode())
        for _ in range(chance.randrange(3)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        cut = bytes(data[: chance.randrange(len(data) + 1)])
        told = decodes(cut)
        found += told
        assert _core.is_utf8(cut) == _core.is_utf8(cut, portable=True) == told, cut
    assert 4_000 < found < 18_000
