"""What the compiled part is asked by chance: each chapter raises where it and Python differ."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
from support.fuzz_bodies import good, spoiled
from support.fuzz_requests import World, make
from support.fuzz_streams import answer, events, script, spoiled_events
from support.http_readers import ReadRequest, read_answer
from support.pay_cases import hold_chance_together
from support.sanitized import exactly

from catalog.ground.errors import UpstreamFailed
from marketplace.gateway.express import _core
from marketplace.gateway.records import EndpointRecord
from marketplace.gateway.request import count_media, decoded
from marketplace.gateway.shapes import _ERRORS, CHAT, Talk
from marketplace.gateway.sse import StreamReader
from marketplace.gateway.usage import usage_of
from marketplace.prices.usage import read_usage

exact = exactly()
_ID = re.compile(r"gen_[0-7][0-9A-HJKMNP-TV-Z]{25}")
_HIGHEST = 2**63 - 1


def money(chance: random.Random) -> None:
    """Prices, ladders and calls that no office would make."""
    hold_chance_together(_core.Terms, chance)


# Text.


def text(chance: random.Random) -> None:
    """Digests, strings, numbers and names."""
    data = _bytes(chance)
    for portable in (False, True):
        assert _core.sha256(exact(data), portable=portable) == hashlib.sha256(data).digest()
        assert _core.is_utf8(exact(data), portable=portable) is _is_utf8(data)
    assert _core.hex_sha256(exact(data)) == hashlib.sha256(data).hexdigest()
    words = data.decode(errors="ignore")
    assert _core.json_string(words) == msgspec.json.encode(words)
    number = chance.choice((0, -1, _HIGHEST, -_HIGHEST - 1, chance.randint(-_HIGHEST, _HIGHEST)))
    number //= 10 ** chance.randint(0, 19)
    assert _core.number(number) == b"%d" % number
    first, second = _core.new_id("gen"), _core.new_id("gen")
    assert first < second
    assert _ID.fullmatch(first)


_PIECES = (
    *("a", "é", "词", "\U0001f600", "\x00", "\x1f", "\x7f", '"', "\\", "\n", "\u2028", "\ud7ff"),
    *(
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe8\xaf",
        b"\x80",
        b"\xf0\x9f",
    ),
)


def _bytes(chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return chance.randbytes(chance.choice((0, 1, 55, 56, 63, 64, 65, 127, 128, 1000)))
    well = chance.random() < 0.6
    made = b""
    for _ in range(chance.randint(0, 60)):
        piece = chance.choice(_PIECES[:12] if well else _PIECES)
        made += piece.encode() if isinstance(piece, str) else piece
        if chance.random() < 0.3:
            made += b"plain words " * chance.randint(1, 3)
    return made


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# Requests.


def requests(chance: random.Random) -> None:
    """Bodies of calls: whatever the lane takes is what Python would have made of it."""
    body = request_by_chance(chance)
    asked = _core.read_request(exact(body))
    written = _core.write_request(exact(body), b'"m"', 77)
    if asked is None:
        assert written is None
        return
    talk = Talk(CHAT, body)  # it raises what Python refuses
    envelope = talk.envelope
    decoded(body)
    assert count_media(body) == 0
    assert (envelope.n or 1, envelope.models, envelope.route, talk.wish) == (1, None, None, None)
    assert asked["model"] == envelope.model
    assert asked["stream"] is bool(envelope.stream)
    assert asked["include_usage"] is envelope.wants_usage
    assert asked["max_tokens"] == (envelope.asked_max_tokens or 0)
    fields = [(name.encode(), bytes(raw)) for name, raw in talk.fields.items()]
    assert [(name, value) for name, value in asked["fields"]] == fields
    endpoint = EndpointRecord(id="ept", url="", model="m")
    call: Any = SimpleNamespace(max_tokens=77, streamed=bool(envelope.stream))
    assert (CHAT, written) == talk.request_for(endpoint, call)


_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 7, 4096, 10_000_000, 10_000_001, -1, 1.5, 2**63 - 1, 2**63, 2**64),
    *("", "x", "词\U0001f600", "image", "input_image", '"image_url"', [], {}, [[]], {"a": [1, {}]}),
    *({"include_usage": True}, {"include_usage": False}, {"include_usage": None}, {"type": "text"}),
    [{"role": "user", "content": [{"type": "text", "text": "你好"}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
)
_NAMES = (
    *("stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("tools", "stop", "seed", "user", "n", "response_format", "metadata", "logprobs", "top_k"),
    *("prompt_cache_key", "models", "route", "provider", "n_predict", "messages", "model", "type"),
)


def request_by_chance(chance: random.Random, model: str = "m", odd: float = 0.6) -> bytes:
    """Return the body of a call; `odd` is the share of those that nobody sends."""
    way = chance.random()
    if way < odd / 2:
        return spoiled(CHAT, model, "mark", chance)[0]
    document = good(CHAT, model, "mark", chance)
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        document[chance.choice(_NAMES)] = chance.choice(_VALUES)
    if chance.random() < 0.2:
        document["messages"] = chance.choice(_VALUES)
    body = written(document, chance)
    return bitten(body, chance) if way > 1 - odd / 2 else body


def written(document: Any, chance: random.Random) -> bytes:
    """Write JSON as one of many writers does."""
    separators = chance.choice(((",", ":"), (", ", ": "), (" ,\n", "\t:\r ")))
    plain = chance.random() < 0.5
    return json.dumps(document, separators=separators, ensure_ascii=plain).encode(errors="replace")


_TEETH = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\\u0041", b"\\ud83d", b"\\u00e9", b"\x00"),
    *(b"\n", b" ", b"\xff", b"\xc3", b"1e400", b"-", b"0", b"null", b'"type":"image"', b'"error"'),
    *(b"data:", b"\r\n", b"\n\n", b',"usage":{', b"}}", b"[DONE]", b"1e5", b"-0", b"1.0", b"e"),
)


def bitten(body: bytes, chance: random.Random) -> bytes:
    """Cut, change and repeat some bytes."""
    made = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 2, 6))):
        place, way = chance.randint(0, len(made)), chance.randrange(4)
        if way == 0:
            made[place : place + chance.randint(1, 4)] = b""
        elif way == 1:
            made[place:place] = chance.choice(_TEETH)
        elif way == 2:
            made[place : place + 1] = bytes([chance.randrange(256)])
        else:
            made[place:place] = made[place : place + chance.randint(1, 20)]
    return bytes(made[: chance.randint(0, len(made))] if chance.random() < 0.1 else made)


# Usage.


def usage(chance: random.Random) -> None:
    """Answers and events: what the lane reads of them is what Python reads, and it leaves no mark."""
    document = _answer(chance)
    got = _core.read_usage(exact(document))
    if got is None:
        return
    assert not document.startswith(_ERRORS)
    found, raw = usage_of(document)
    assert found is not None
    buckets, marks = read_usage(found)
    assert marks == ()
    assert (*got[0], 0, 0) == tuple(buckets)
    assert got[1] == raw.encode()


_COUNTS = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens", "note"),
)
_DETAILS = (
    *("prompt_tokens_details", "input_tokens_details"),
    *("completion_tokens_details", "output_tokens_details"),
)
_PARTS = (
    *("cached_tokens", "cache_write_tokens", "cache_creation_tokens", "created_cache_tokens"),
    *("reasoning_tokens", "audio_tokens"),
)


def _count(chance: random.Random) -> Any:
    odd = (None, True, "7", 1.0, 2.5, -1, -0.0, 10**9, 10**9 + 1, 2**63, 10**30, [], {})
    return chance.choice(odd) if chance.random() < 0.08 else chance.randint(0, 40)


def _told(chance: random.Random) -> dict[str, Any]:
    """Return a usage object, most of them such that they add up; TypeError where none can be made."""
    given, made = chance.randint(0, 90), chance.randint(0, 90)
    told: dict[str, Any] = {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
    }
    for name in chance.sample(_COUNTS, chance.choice((0, 0, 0, 1, 2))):
        told[name] = _count(chance)
    for name in chance.sample(_DETAILS, chance.choice((0, 1, 2))):
        parts = {
            part: _count(chance) // 3 if chance.random() < 0.9 else None for part in _some(chance)
        }
        told[name] = parts if chance.random() < 0.95 else chance.choice((None, [], 7, "x", {}))
    for name in chance.sample(sorted(told), chance.choice((0, 0, 0, 1))):
        del told[name]
    return told


def usage_by_chance(chance: random.Random) -> dict[str, Any]:
    """Return a usage object, most of them such that they add up."""
    try:
        return _told(chance)
    except TypeError:
        return {}  # a count that cannot be divided


def _some(chance: random.Random) -> list[str]:
    return chance.sample(_PARTS, chance.randint(0, 3))


def _answer(chance: random.Random) -> bytes:
    document: dict[str, Any] = {"id": "x", "choices": [{"message": {"content": '你好 }"usage":{'}}]}
    document["usage"] = usage_by_chance(chance)
    if chance.random() < 0.15:
        document[chance.choice(("error", "usage ", "more"))] = chance.choice(_VALUES)
    body = written(document, chance)
    if chance.random() < 0.2:
        body = answer(CHAT, "mark", chance, usage=...)
    if chance.random() < 0.3:
        body = bitten(body, chance)
    return chance.choice((b"", b"", b"data:", b"data: ")) + body


# Streams.


def streams(chance: random.Random) -> None:
    """Events in random pieces: both readers forward the same, and stand in the same place afterwards."""
    reader, compiled = StreamReader(), _core.StreamReader()
    pieces = pieces_by_chance(chance)
    for piece in pieces:
        try:
            forward = reader.feed(piece)
        except UpstreamFailed:
            assert compiled.feed(exact(piece)) is None
            assert compiled.forwarded == b""
            return
        got = compiled.feed(exact(piece))
        assert compiled.forwarded == forward
        assert (got is None) is (reader.failed is not None)
        assert compiled.usage == reader.usage
        assert compiled.usage_chunk == reader.usage_chunk
        assert compiled.done is reader.done
        if got is None or chance.random() < 0.2:
            reader = _handed_over(compiled, reader)
        if got is None:
            return


def _handed_over(compiled: Any, before: StreamReader) -> StreamReader:
    """Return a reader of Python's that was fed the compiled one's tail: it stands where `before` stood."""
    after = StreamReader()
    after.feed(compiled.tail())
    for name in ("usage", "usage_chunk", "done", "made"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.failed is None) is (before.failed is None)
    return after


def pieces_by_chance(chance: random.Random) -> list[bytes]:
    """Return a stream as it arrives."""
    if chance.random() < 0.4:
        whole = spoiled_events(CHAT, "mark", chance)
    else:
        told = events(CHAT, "mark", chance)
        if chance.random() < 0.7:
            told.insert(chance.randint(0, len(told)), b"data: " + written(_chunk(chance), chance))
        end = chance.choice((b"\n\n", b"\n\n", b"\n\n", b"\r\n\r\n", b"\n\r\n"))
        whole = end.join([*told, b""])
    if chance.random() < 0.4:
        whole = bitten(whole, chance)
    if chance.random() < 0.1 and len(whole) < 3_000:
        return [whole[n : n + 1] for n in range(len(whole))]
    return _cut(whole, chance)


def _cut(whole: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.choices(range(len(whole) + 1), k=chance.choice((0, 1, 3, 9))))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def _chunk(chance: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {"id": "x", "choices": chance.choice(([], [{"index": 0}], None))}
    if chance.random() < 0.6:
        made["usage"] = chance.choice(
            (None, {}, {"prompt_tokens": 1}, {"a": {"b": 1}}, {"a": {"b": {}}})
        )
    if chance.random() < 0.3:
        made["error"] = chance.choice((None, {"message": "no"}, "no", False))
    if chance.random() < 0.2:
        made["text"] = chance.choice(('"error"', '","usage":{"x":1}}', "\\"))
    return made


# HTTP.


def heads(chance: random.Random) -> None:
    """Requests at the door: one that is plain is that request to the door's own parser, and nothing else."""
    case = make(chance.randrange(2**32), 1, _WORLD)
    whole = (
        bitten(b"".join(case.pieces), chance) if chance.random() < 0.3 else b"".join(case.pieces)
    )
    plain = _core.plain_head(exact(whole))
    if plain is None:
        return
    size, length, authorization = plain
    read = ReadRequest(whole[:size] + b"x" * length)
    assert (read.failed, read.whole, read.keeps) == (False, True, True)
    assert (read.method, read.target, read.version) == (b"POST", CHAT.encode(), "1.1")
    assert read.body == b"x" * length
    headers = dict(read.headers)
    assert headers.get(b"authorization", b"") == authorization
    assert not headers.keys() & _UNUSUAL


_WORLD = World("127.0.0.1:8000", ["tm-key"], ["tm-wrong"], ["m"], [("GET", "/v1/models")])
_UNUSUAL = {
    *(b"transfer-encoding", b"expect", b"upgrade", b"x-api-key", b"idempotency-key"),
    b"traceparent",
}


def answers(chance: random.Random) -> None:
    """Answers of engines: one that is read is the one that the gateway's own client reads.

    What is broken for the compiled reader may be less so for httptools, which takes other versions.
    """
    push = chance.random() < 0.5
    parts: list[bytes] = []
    for act in script(CHAT, "mark", push, chance):
        if not isinstance(act, bytes):
            break
        parts.append(act)
    if chance.random() < 0.3:
        parts = _cut(bitten(b"".join(parts), chance), chance)
    ours = _core.read_answer([exact(part) for part in parts], push)
    theirs = read_answer(parts, push, _loop)
    if len(ours) == 2:
        return
    if len(theirs) == 2:
        assert b";" in b"".join(parts)  # an extension of a chunk, which nobody reads
        return
    assert b"".join(ours[0]) == b"".join(theirs[0])
    assert (ours[1], ours[3]) == (theirs[1], theirs[3])
    assert theirs[4] or not ours[4]
    if ours[4]:
        assert ours[2].items() <= theirs[2].items()  # theirs has what trails the body
    else:
        assert (
            ours[2].keys() <= theirs[2].keys()
        )  # and of another answer behind it, where there is one


_loop = asyncio.new_event_loop()


CHAPTERS: dict[str, Callable[[random.Random], None]] = {
    "money": money,
    "text": text,
    "requests": requests,
    "usage": usage,
    "streams": streams,
    "heads": heads,
    "answers": answers,
}
