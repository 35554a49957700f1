"""Bodies of model calls: good ones of every shape, and every way that this fuzz knows to spoil one."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from typing import Any

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/moderations",
)
STREAMING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
BODY_LIMIT = 8 * 1024 * 1024
_KNOWN = re.findall(
    r"\w+",
    "model stream stream_options max_tokens max_completion_tokens max_output_tokens n best_of models "
    "route provider prompt_cache_key messages prompt input instructions system tools tool_choice "
    "response_format text reasoning thinking stop stop_sequences temperature top_p top_k seed user "
    "logprobs top_logprobs metadata previous_response_id include store background truncation "
    "encoding_format dimensions parallel_tool_calls service_tier conversation prompt_cache_retention",
)
_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**64,
    10**40,
    -(2**63) - 1,
    1.5,
    1e300,
    "",
    "x",
    "\x00",
    "a\x00b/c\x00",
    "\u200f\ufeff\U0001f600",
    "../../etc/passwd",
    "x" * 5_000,
    [],
    {},
    [[]],
    [None],
    [{}],
    {"": None},
    {"type": "function"},
    [{"type": "function", "function": {"name": 7}}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": 7}]}],
    [{"type": "message", "role": "tool", "content": 1}],
    [{"role": "assistant", "content": None, "tool_calls": [{"id": 1, "function": []}]}],
    {"effort": 3},
    {"type": "json_schema", "json_schema": []},
    {"include_usage": "yes"},
    {"only": "x", "order": [1], "sort": {}, "max_price": {"prompt": "x"}},
)
_RAW = (
    b"1" * 400,
    b"-" + b"9" * 5000,
    b"1e99999",
    b"1E-99999",
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b'"\\ud83d\\u0041"',
    b'"\\u0000"',
    b'"\xff\xfe"',
    b'"\xc3("',
    b'"\xed\xa0\x80"',
    b'"a\x00b"',
    b"'x'",
    b"01",
    b"[" * 300 + b"]" * 300,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b"[" * 3_000 + b"]" * 3_000,
    b"[" * 50_000,
    b"[1,]",
    b"undefined",
    b"/* */ 1",
    b"",
)


def good(path: str, model: str, mark: str, chance: random.Random) -> dict[str, Any]:
    """Return a request that every engine answers; `mark` is in its text, to tell answers apart."""
    said: dict[str, Any] = {"model": model}
    if path == "/v1/completions":
        said["prompt"] = mark
    elif path in ("/v1/embeddings", "/v1/moderations") or "responses" in path:
        said["input"] = mark
    else:
        said["messages"] = [{"role": "user", "content": mark}]
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    if path in STREAMING and "count" not in path:
        if path == "/v1/messages" or chance.random() < 0.7:
            said[limit] = chance.randint(1, 12)
        if chance.random() < 0.5:
            said["stream"] = True
            if chance.random() < 0.4 and "completions" in path:
                said["stream_options"] = {"include_usage": True}
    return said


def encode(document: Any) -> bytes:
    """Return compact JSON; what cannot be encoded goes out as escapes."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()


def spoiled(path: str, model: str, mark: str, chance: random.Random) -> tuple[bytes, bytes]:
    """Return (a body that is wrong in one or several ways, headers that go with it)."""
    document = good(path, model, mark, chance)
    ways = [_odd_field, _odd_field, _raw_field, _odd_inside, _missing, _bytes_of, _framed, _foreign]
    return chance.choice(ways)(document, chance)


def _odd_field(document: dict[str, Any], chance: random.Random) -> tuple[bytes, bytes]:
    for _ in range(chance.choice((1, 1, 2, 5))):
        document[chance.choice(_KNOWN)] = chance.choice(_ODD)
    return encode(document), b""


def _raw_field(document: dict[str, Any], chance: random.Random) -> tuple[bytes, bytes]:
    name = chance.choice((*_KNOWN, *document)).encode()
    members = [encode(key) + b":" + encode(value) for key, value in document.items()]
    # A second member of the same name stands before or after the first.
    members.insert(chance.randint(0, len(members)), b'"%b":%b' % (name, chance.choice(_RAW)))
    return b"{%b}" % b",".join(members), b""


def _odd_inside(document: dict[str, Any], chance: random.Random) -> tuple[bytes, bytes]:
    places: list[tuple[Any, Any]] = []
    _places(document, places)
    for _ in range(chance.randint(1, 3)):
        holder, key = chance.choice(places)
        holder[key] = chance.choice(_ODD)
    return encode(document), b""


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, item in pairs:
        found.append((value, key))
        _places(item, found)


def _missing(document: dict[str, Any], chance: random.Random) -> tuple[bytes, bytes]:
    for name in chance.sample(sorted(document), chance.randint(1, len(document))):
        del document[name]
    return encode(document), b""


def _bytes_of(document: dict[str, Any], chance: random.Random) -> tuple[bytes, bytes]:
    """Cut, flip, insert and repeat bytes."""
    body = bytearray(encode(document))
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(body)) if body else 0
        way = chance.randrange(5)
        if way == 0:
            del body[place:]
        elif way == 1 and body:
            body[place] = chance.randrange(256)
        elif way == 2:
            body[place:place] = chance.randbytes(chance.randint(1, 6))
        elif way == 3:
            body[place:place] = body[place : place + chance.randint(1, 40)]
        else:
            del body[place : place + chance.randint(1, 10)]
    return bytes(body), b""


def _framed(document: dict[str, Any], chance: random.Random) -> tuple[bytes, bytes]:
    """Encode a good document in a way that nobody promised to read."""
    body = encode(document)
    ways: list[Callable[[], tuple[bytes, bytes]]] = [
        lambda: (gzip.compress(body, mtime=0), b"content-encoding: gzip\r\n"),
        lambda: (body, b"content-encoding: gzip\r\n"),
        lambda: (b"\xef\xbb\xbf" + body, b""),
        lambda: (
            body.decode().encode("utf-16"),
            b"content-type: application/json; charset=utf-16\r\n",
        ),
        lambda: (b"  \r\n\t" * 200 + body + b"\n" * 50, b""),
        lambda: (body + body, b""),
        lambda: (b"[" + body + b"]", b""),
        lambda: (b"model=x&stream=true", b"content-type: application/x-www-form-urlencoded\r\n"),
        lambda: (
            b"--x\r\n\r\n" + body + b"\r\n--x--",
            b"content-type: multipart/form-data; boundary=x\r\n",
        ),
        lambda: (body, b"content-type: \x80\xff\r\n"),
    ]
    return chance.choice(ways)()


def _foreign(document: dict[str, Any], chance: random.Random) -> tuple[bytes, bytes]:
    if chance.random() < 0.005:
        return b" " * (BODY_LIMIT + 1), b""
    foreign = (
        b"",
        b"null",
        b"true",
        b"0",
        b'""',
        b"[]",
        b"{}",
        b"\x00",
        b"\xff" * 40,
        b'{"model":',
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b'{"' + b"k" * 70_000 + b'":1}',
        b"<?xml version='1.0'?><a/>",
        b"{" + b",".join(b'"k%d":0' % n for n in range(3_000)) + b"}",
    )
    return chance.choice(foreign), b""
