"""The stream reader: however the bytes are cut, the client sees the same."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.gateway.sse import StreamReader, without_usage

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}


def event(**fields: Any) -> bytes:
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return b"data: " + body + b"\n\n"


def delta(text: str, **more: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}], **more)


STREAM = (
    b": hello\n\n"
    + delta("红色 ")
    + delta('T-shirt "usage":{ ', usage=USAGE)
    + delta("", usage=USAGE)
    + event(choices=[], usage=USAGE)
    + b"data: [DONE]\n\n"
)
SEEN = b": hello\n\n" + delta("红色 ") + delta('T-shirt "usage":{ ') + delta("")


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans())
def test_cuts_do_not_matter(cuts: list[int], crlf: bool) -> None:
    reader = StreamReader()
    stream = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    places = sorted({0, len(stream), *cuts})
    seen = b"".join(reader.feed(stream[a:b]) for a, b in pairwise(places))
    if not crlf or all(stream[place - 1 : place] != b"\r" for place in places[1:-1]):
        assert seen == SEEN
    assert reader.done
    assert reader.usage_chunk is not None
    assert reader.usage_chunk == event(choices=[], usage=USAGE).rstrip()


def test_an_error_event_is_a_failure_even_when_done_follows() -> None:
    reader = StreamReader()
    assert reader.feed(
        delta("a") + event(error={"message": "dead"}) + b"data: [DONE]\n\n"
    ) == delta("a")
    assert reader.failed is not None


def test_only_a_trailing_usage_is_cut() -> None:
    inside = b'data: {"choices":[],"usage":{"a":1},"x":{"y":1}}'
    assert without_usage(inside) == inside
    assert without_usage(b'data: {"x":1,"usage":{"a":{"b":2}}}') == b'data: {"x":1}'


@pytest.mark.parametrize(
    ("event", "forwarded"),
    [
        (b'data: {"choices":[1],"usage":{"a":1}}', b'data: {"choices":[1]}'),
        (b'data: {"choices":[1],"usage":{"a":{"b":1}}}', b'data: {"choices":[1]}'),
        (b'data: {"usage":{"a":1},"choices":[1]}', b'data: {"usage":{"a":1},"choices":[1]}'),
        (b'data: {"x":{"y":1,"usage":{"a":1}}}', b'data: {"x":{"y":1,"usage":{"a":1}}}'),
        (
            b'data: {"x":{"y":1,"usage":{"a":1}},"z":{}}',
            b'data: {"x":{"y":1,"usage":{"a":1}},"z":{}}',
        ),
    ],
)
def test_what_is_left_of_an_event_is_json(event: bytes, forwarded: bytes) -> None:
    assert StreamReader().feed(event + b"\n\n") == forwarded + b"\n\n"
    json.loads(forwarded[6:])
