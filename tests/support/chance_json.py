"""JSON by chance, and bytes that are nearly JSON: words, numbers and pieces at which readers differ."""

from __future__ import annotations

import json
import random
from typing import Any

WORDS = [
    "a", "red shirt", "红色", "😀", "[", "]]", 'say "no"', "\\", "\n", "\x7f", "image_url",
    '"image_url', "", "type", '"type', "image", "file", "/", "<b>", "\u2028", "long " * 30,
    "nul\x00", 'x\\"input_file',
]  # fmt: skip
NUMBERS = [0, 1, -1, 0.5, 1e20, 1e-7, 10**18, 10**18 - 1, 2**63, 2**64, 10**30, -0.0, 1.5e300, 3]
PIECES = [
    b'"', b"\\", b"\\u0061", b"\\u0041", b"\\u00e9", b"\\ud83d\\ude00", b"\\ud83d", b"\\udc00",
    b"\\u00", b"\\ud800\\u0041", b"\\x", b"\\/", b"{", b"}", b"[", b"]", b",", b":", b"1e400",
    b"1e-400", b"-", b"0", b"00", b"01", b"-0", b"1.", b".5", b"1e5", b"1E+05", b"9" * 19,
    b"9" * 400, b"null", b"true", b"nul", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\x00", b"\x1f", b"\x7f", b"\xef\xbb\xbf", b" ", b"\n",
    b"\x0b", b"\xc2\xa0", b"[" * 70, b"[" * 1200, b'{"a":' * 70, b'"image_url"',
    b'"type":"image"', b'"type" :\n"file"', b'\\"input_file"', b'"input_audio":1,',
    b',"model":"x"', b',"models":[]', b',"max_tokens":5', b',"mod\\u0065l":"x"', b',"n":2',
    b',"n":1', b"NaN", b"Infinity", b"/**/", b"'", b'"\\u0074ype":"image"',
    b'"\\\\u0074ype":"image"', b"[[", b"[]",
]  # fmt: skip


def value(chance: random.Random, depth: int = 0) -> Any:
    """Return anything that JSON can say, of a few levels."""
    kind = chance.randrange(9 if depth < 4 else 6)
    if kind < 2:
        return "".join(chance.choices(WORDS, k=chance.randrange(4)))
    if kind < 4:
        return chance.choice([*NUMBERS, chance.random(), chance.randrange(1 << 40)])
    if kind < 6:
        return chance.choice([None, True, False, {}, []])
    if kind < 8:
        names = ["type", "name", "a", "image_url", *WORDS]
        return {chance.choice(names): value(chance, depth + 1) for _ in range(chance.randrange(4))}
    return [value(chance, depth + 1) for _ in range(chance.randrange(4))]


def dumped(chance: random.Random, body: Any) -> bytes:
    """Return it as JSON, spaced and escaped in one of the ways there are."""
    text = json.dumps(
        body,
        ensure_ascii=chance.random() < 0.5,
        separators=chance.choice([(",", ":"), (", ", ": "), (" ,\t", "\r\n:\n")]),
        indent=chance.choice([None, None, 1]),
    )
    return (
        chance.choice(["", "", " ", "\n\t"]) + text + chance.choice(["", "", "\n", " \r\n"])
    ).encode()


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Return bytes with a few places changed."""
    body = bytearray(data)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 5])):
        at = chance.randrange(len(body) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            body[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            body[at:at] = chance.choice(PIECES)
        elif kind == 2:
            body[at : at + chance.randrange(4)] = chance.choice(PIECES)
        elif kind == 3:
            del body[at : at + chance.randrange(8)]
        elif kind == 4:
            start = chance.randrange(len(body) + 1)
            body[at:at] = body[start : start + chance.randrange(40)]
        else:
            where = body.find(chance.choice([b'"', b":", b"[", b",", b"}"]), at)
            if where >= 0:
                body[where + 1 : where + 1] = chance.choice(PIECES)
    return bytes(body)
