"""The stream reader: however the bytes are cut, the client sees the same."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.errors import UpstreamFailed
from marketplace.gateway.sse import Events, StreamReader, without_usage
from marketplace.gateway.usage import usage_of

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


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_events_are_cut_alike_however_they_arrive(end: bytes, size: int) -> None:
    events = [b"data: a", b"data: b\ndata: c", b": d", b"data: [DONE]"]
    whole = end.join([event.replace(b"\n", end[: len(end) // 2]) for event in events]) + end
    cutter, found = Events(), []
    for start in range(0, len(whole), size):
        found += cutter.cut(whole[start : start + size])
    assert found == events


def test_an_event_without_an_end_costs_no_more_than_its_bytes() -> None:
    cutter = Events()
    with pytest.raises(UpstreamFailed):
        for _ in range(20_000):
            assert cutter.cut(b"x" * 1000) == []


@pytest.mark.parametrize(
    "event",
    [b"\n%b", b"event: message\n%b", b"id: 7\nretry: 10\n%b", b"%b\nid: 7", b": told\n%b"],
)
def test_nothing_beside_the_data_hides_it(event: bytes) -> None:
    reader = StreamReader()
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1}}'
    assert reader.feed(event % b"data: {}" + b"\n\n") == b"data: {}\n\n"
    assert reader.feed(event % usage + b"\n\n") == b""
    assert reader.usage == usage
    assert reader.feed(event % b"data:[DONE]" + b"\n\n") == b""
    assert reader.done


def test_an_error_may_be_told_by_its_name() -> None:
    reader = StreamReader()
    assert reader.feed(b'event: error\ndata: {"message":"no"}\n\n') == b""
    assert reader.failed is not None


@pytest.mark.parametrize(
    ("told", "failed"),
    [
        (b'{"id":"x","choices":[{"finish_reason":"error"}],"error":{"message":"no"}}', True),
        (b'{"id":"x","error":{"message":"no"},"choices":[],"usage":{"prompt_tokens":1}}', True),
        (b'{ "error": "no" }', True),
        (b'{"error":null,"choices":[]}', False),
        (b'{"choices":[{"delta":{"content":"an \\"error\\":{} in a text"}}]}', False),
        (b'{"choices":[{"finish_reason":"error"}]}', False),
    ],
)
def test_an_error_is_found_wherever_a_chunk_has_it(told: bytes, failed: bool) -> None:
    reader = StreamReader()
    event = b"data: " + told + b"\n\n"
    assert reader.feed(event) == (b"" if failed else event)
    assert (reader.failed is not None) == failed


def test_data_of_several_lines_is_one_chunk() -> None:
    reader = StreamReader()
    whole = json.dumps({"choices": [], "usage": USAGE}, indent=1).encode()
    told = b"data: " + whole.replace(b"\n", b"\ndata: ") + b"\n\n"
    assert reader.feed(told.replace(b"usage", b"other")).count(b"\n") == 2
    assert reader.feed(told) == b""
    assert reader.usage is not None
    assert usage_of(reader.usage)[0] == USAGE
