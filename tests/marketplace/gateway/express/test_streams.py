"""The compiled reader of streams does what Python's does, however the bytes are cut; its tail stands for it.

`compare_streams` takes any number of cases; the tests run a few thousand.
"""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.errors import UpstreamFailed
from marketplace.gateway.sse import StreamReader

_core = pytest.importorskip("marketplace.gateway.express._core")

USAGE: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
DETAILED = USAGE | {
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": None,
}
DONE = b"data: [DONE]\n\n"


def state_of(reader: Any) -> tuple[Any, ...]:
    return reader.done, reader.usage, reader.usage_chunk


def fed_with(tail: bytes) -> StreamReader:
    """Return a reader of Python's that is fed with what the compiled one has left."""
    reader = StreamReader()
    if tail:
        reader.feed(tail)
    return reader


def check_stream(pieces: list[bytes], stop: int | None = None) -> str:
    """Compare both readers piece by piece, and Python's fed with the tail from the piece `stop` on."""
    python, compiled = StreamReader(), _core.StreamReader()
    resumed: StreamReader | None = None
    if b"\n\r\r\n" in b"".join(pieces):
        stop = None  # no bytes bring Python's reader where it is amid these
    for place, piece in enumerate(pieces):
        told = compiled.feed(piece)
        try:
            forward = python.feed(piece)
        except UpstreamFailed:
            assert told is None
            assert compiled.forwarded == b""
            with pytest.raises(UpstreamFailed):
                fed_with(compiled.tail())
            return "raised"
        assert compiled.forwarded == forward
        assert told == (None if python.failed is not None else forward)
        assert state_of(compiled) == state_of(python)
        if resumed is not None:
            assert resumed.feed(piece) == forward
        elif place == stop:
            resumed = fed_with(compiled.tail())
        if resumed is not None:
            assert state_of(resumed) == state_of(python)
            assert resumed.made == python.made
            assert (resumed.failed is None) == (python.failed is None)
    return "failed" if python.failed is not None else "done" if python.done else "open"


def event(**fields: Any) -> bytes:
    return (
        b"data: " + json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


def delta(text: str, **more: Any) -> bytes:
    return event(id="c1", choices=[{"index": 0, "delta": {"content": text}}], **more)


TEXTS = [
    "a",
    "红色",
    'T-shirt "usage":{ ',
    '"error"',
    '"error":{',
    "\r\n",
    "{}}{",
    "😀",
    "data: [DONE]",
    "",
]
USAGES: list[Any] = [USAGE, DETAILED, {}, {"a": {"b": {"c": 1}}}, None, {"a": "}"}, {"a": "{"}, 5]
NAMES = [
    b"event: message\n",
    b"event: error\n",
    b"event:error\n",
    b"event: errors\n",
    b"id: 7\n",
    b": x\n",
    b"\n",
]
RAW = [
    b": ping\n\n",
    b"\n\n",
    b"event: ping\n\n",
    b"data:\n\n",
    b"data\n\n",
    b"data: \n\n",
    b"retry: 10\n\n",
]
RAW += [
    b"data:[DONE]\n\n",
    DONE,
    b"data: [DONE] and more\n\n",
    b"data:  [DONE]\n\n",
    b"[DONE]\n\n",
    b"\n",
]
RAW += [b'data: {"error":null,"choices":[]}\n\n', b'data: {"error":{"message":"no"}}\n\n']
RAW += [b'data: {"\\u0065rror":{},"x":"error"}\n\n', b'data: {"\\u0065rror":1,"error":null}\n\n']
RAW += [b'data: {"error":1,"error":null}\n\n', b'data: {"error":null,"\\u0065rr\\u006Fr":1}\n\n']
RAW += [
    b'data: ["error"]\n\n',
    b'data: "error"\n\n',
    b'data: {"x":{"error":1}}\n\n',
    b'data: {"error"}\n\n',
]
RAW += [b'data: {"x":"\xff","error":null}\n\n', b'data: {"x":1e999,"error":null}\n\n']
RAW += [
    b'data: {"error":null,"x":"\\ud800"}\n\n',
    b'data: {"error":null} x\n\n',
    b'data: {"error": null }\n\n',
]
RAW += [b'data: {"error":null,"x":' + b"[" * 300 + b"]" * 300 + b"}\n\n"]
RAW += [b'data: {"error":null,"x":' + b"[" * 3000 + b"]" * 3000 + b"}\n\n"]
RAW += [b'data: {"a":\ndata: 1,"usage":{}}\n\n', b'data: {"choices" : [],"usage":{}}\n\n']
RAW += [
    b'data: {"choices": [],"usage": {"a":1}}\n\n',
    b'data: {"choices":[1],"usage":{"a":1},"x":{"y":1}}\n\n',
]


def one_event(chance: random.Random) -> bytes:
    kind = chance.randrange(12)
    text = chance.choice(TEXTS)
    if kind < 3:
        return delta(text)
    if kind < 6:
        return delta(text, usage=chance.choice(USAGES))
    if kind == 6:
        return event(choices=[], usage=chance.choice(USAGES))
    if kind == 7:
        return event(
            usage=chance.choice(USAGES), choices=[], error=chance.choice([None, None, None, {}])
        )
    if kind == 8:
        spread = json.dumps({"choices": [], "usage": USAGE, "t": text}, indent=1).encode()
        return b"data: " + spread.replace(b"\n", b"\ndata: ") + b"\n\n"
    if kind == 9:
        return chance.choice(NAMES) + delta(text, usage=chance.choice(USAGES))
    return chance.choice(RAW)


PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\r\n",
    b"\n\n",
    b"\n\n\n",
    b"\r\n\r\n",
    b"}}",
    b"{",
    b"}",
    b'"',
    b"data:",
    b"\x00",
]
PIECES += [
    b',"usage":{',
    b'"usage":{',
    b'"usage": {',
    b'"error"',
    b'"choices":[]',
    b"data: [DONE]",
    b"event: error\n",
]


def stream_of(chance: random.Random, count: int, wild: float) -> bytes:
    events = [one_event(chance) for _ in range(count)]
    if chance.random() < 0.5:
        events = [e for e in events if b'"error"' not in e and b"event" not in e] + [DONE]
    stream = bytearray(b"".join(events))
    if chance.random() < 0.3:
        stream = stream.replace(b"\n", b"\r\n")
    while chance.random() < wild:
        at = chance.randrange(len(stream) + 1)
        if chance.random() < 0.5:
            stream[at:at] = chance.choice(PIECES)
        else:
            del stream[at : at + chance.randrange(1, 4)]
    return bytes(stream)


def cut(chance: random.Random, stream: bytes) -> list[bytes]:
    """Return the pieces of a stream: its events, a few, many, or single bytes; some are empty."""
    kind = chance.randrange(5)
    if kind == 0:
        return [part + b"\n\n" for part in stream.split(b"\n\n")]
    if kind == 1:
        return [stream]
    most = 4 if kind == 2 else 30
    places = [chance.randrange(len(stream) + 1) for _ in range(chance.randrange(most))]
    if kind == 4 and len(stream) < 1000:
        places += range(len(stream))
    return [stream[a:b] for a, b in pairwise(sorted([0, *places, len(stream)]))]


def compare_streams(seed: int, cases: int) -> dict[str, int]:
    """Compare so many streams; return how often they ended how."""
    chance = random.Random(seed)
    ends: dict[str, int] = {}
    for _ in range(cases):
        stream = stream_of(chance, chance.randrange(6), chance.choice([0, 0, 0.5, 0.8]))
        pieces = [*cut(chance, stream), b"\n\n"]
        end = check_stream(pieces, chance.randrange(len(pieces)))
        ends[end] = ends.get(end, 0) + 1
    return ends


def test_streams_are_read_as_python_does() -> None:
    ends = compare_streams(5, 3000)
    assert min(ends["failed"], ends["done"], ends["open"]) > 300


@given(
    st.lists(st.sampled_from([*PIECES, *RAW, delta("a"), delta("b", usage=USAGE)]), max_size=8),
    st.data(),
)
def test_any_pieces_are_read_as_python_does(pieces: list[bytes], data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(pieces)))
    check_stream([*pieces, b"\n\n"], stop)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b"\r\n", b"data:", b"\n\n"]), max_size=14))
def test_ends_of_lines_are_cut_as_python_does(pieces: list[bytes]) -> None:
    check_stream(pieces)


def test_a_usual_stream() -> None:
    stream = (
        delta("红色 ", usage=USAGE),
        delta("a", usage=DETAILED),
        event(choices=[], usage=USAGE),
        DONE,
    )
    reader = _core.StreamReader()
    assert [reader.feed(piece) for piece in stream] == [delta("红色 "), delta("a"), b"", b""]
    assert state_of(reader) == (True, stream[2][:-2], stream[2][:-2])
    assert reader.tail() == stream[2] + DONE
    assert check_stream([*stream], 2) == "done"


def test_what_was_made_without_usage_is_in_the_tail() -> None:
    reader = _core.StreamReader()
    made = b"".join(delta(text) for text in TEXTS[:3])
    assert reader.feed(b": hello\n\n" + made + b"data: {") == b": hello\n\n" + made
    assert reader.tail() == made + b"data: {"


def test_an_event_without_an_end_fails_as_in_python() -> None:
    assert check_stream([delta("a"), *[b"x" * (1 << 20)] * 20]) == "raised"
    assert check_stream([b"x" * ((1 << 24) + 2), b"y", b"\n\n"]) == "raised"


def test_more_than_any_answer_fails_as_in_python() -> None:
    one = b'data: {"a":"' + b"x" * (1 << 20) + b'"}\n\n'
    assert check_stream([delta("a"), *[one] * 70]) == "raised"


def test_a_piece_in_which_python_raises_is_forwarded_in_no_part() -> None:
    one = b'data: {"a":"' + b"x" * (1 << 20) + b'"}\n\n'
    reader = _core.StreamReader()
    for _ in range(63):
        assert reader.feed(one) == one
    assert reader.feed(delta("a") + one) is None
    assert reader.forwarded == b""
