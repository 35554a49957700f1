"""However an engine cuts its answer into chunks, the stream adds up to the whole answer's translation."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serving.translation import Messages, Responses

Json = dict[str, Any]
GENERATION, CREATED_S = "gen_01K5Q0000000000000000000AB", 1_790_000_000
USAGE = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_response: TypeAdapter[Response] = TypeAdapter(Response)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
arguments = st.dictionaries(
    texts, st.one_of(texts, st.integers(), st.lists(texts, max_size=2)), max_size=3
)
finishes = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text anywhere; empty pieces come, too."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    """Return (choice of a whole answer, choices of a stream that says the same)."""
    message: Json = {"role": "assistant", "content": None}
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    reasoning = draw(st.sampled_from(["reasoning", "reasoning_content"]))
    for name in (reasoning, "content", "refusal"):
        text = draw(texts)
        if text:
            message[name] = text
            deltas += [{name: piece} for piece in draw(pieces(text))]
    names = draw(st.lists(st.sampled_from(["look", "find_it", "天气"]), max_size=3))
    calls = [
        {"id": f"call-{place}", "type": "function", "function": {"name": name, "arguments": given}}
        for place, name in enumerate(names)
        for given in [json.dumps(draw(arguments), ensure_ascii=draw(st.booleans()))]
    ]
    if calls:
        message["tool_calls"] = calls
        deltas += draw(mixed(calls))
    if draw(st.booleans()):
        deltas = draw(joined(deltas))
    finish = draw(finishes)
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    return {"index": 0, "message": message, "finish_reason": finish}, choices


@st.composite
def mixed(draw: st.DrawFn, calls: list[Json]) -> list[Json]:
    """Cut the calls; pieces of several calls may come mixed, but every call starts after the one before."""
    queues: list[list[Json]] = []
    for place, call in enumerate(calls):
        name, given = call["function"]["name"], call["function"]["arguments"]
        split = draw(st.integers(0, len(name)))
        head = {"index": place, "id": call["id"], "type": "function"}
        queue = [head | {"function": {"name": name[:split], "arguments": ""}}]
        if split < len(name):
            queue.append({"index": place, "function": {"name": name[split:]}})
        queue += [
            {"index": place, "function": {"arguments": piece}} for piece in draw(pieces(given))
        ]
        queues.append(queue)
    mix, started = draw(st.booleans()), 0
    merged: list[Json] = []
    while any(queues):
        ready = [place for place in range(started) if queues[place]]
        if started < len(queues) and (mix or not ready):
            ready.append(started)
        place = draw(st.sampled_from(ready))
        started = max(started, place + 1)
        merged.append({"tool_calls": [queues[place].pop(0)]})
    return merged


@st.composite
def joined(draw: st.DrawFn, deltas: list[Json]) -> list[Json]:
    """Send some pieces of different kinds in one chunk."""
    found: list[Json] = []
    for delta in deltas:
        kinds = ("reasoning", "reasoning_content", "content", "refusal", "tool_calls")
        ranks = [kinds.index(key) for key in (*(found[-1] if found else ()),) if key in kinds]
        later = all(kinds.index(key) > max(ranks, default=-1) for key in delta if key in kinds)
        if found and later and draw(st.booleans()):
            found[-1] = found[-1] | delta
        else:
            found.append(delta)
    return found


def _stream(translation: Any, choices: list[Json]) -> bytes:
    told: bytes = translation.begin(GENERATION, CREATED_S)
    for choice in choices:
        told += translation.feed({"choices": [choice]})
    told += translation.feed({"choices": [], "usage": USAGE})
    return told + bytes(translation.finish())


def _responses() -> Responses:
    return Responses({"model": "m", "input": "Hi"})


def _messages() -> Messages:
    return Messages(
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    )


many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(answers())
def test_responses(answer: tuple[Json, list[Json]]) -> None:
    whole, choices = answer
    wanted = _responses().answer({"choices": [whole], "usage": USAGE}, GENERATION, CREATED_S)
    _response.validate_python(wanted)
    events = _events(_stream(_responses(), choices))
    for event in events:
        _event.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]
    assert last["type"] == f"response.{last['response']['status']}"
    assert last["response"] == wanted
    assert _items(events) == wanted["output"]
    ids = [item["id"] for item in wanted["output"]]
    assert len(set(ids)) == len(ids)


@many
@given(answers())
def test_messages(answer: tuple[Json, list[Json]]) -> None:
    whole, choices = answer
    wanted = _messages().answer({"choices": [whole], "usage": USAGE}, GENERATION, CREATED_S)
    assert _message(_events(_stream(_messages(), choices))) == wanted
    used = [block["id"] for block in wanted["content"] if block["type"] == "tool_use"]
    assert len(set(used)) == len(used)


def _events(stream: bytes) -> list[Json]:
    # JSON escapes line breaks, so blank lines only stand between events.
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, _, data = block.partition("\ndata: ")
        found.append(json.loads(data))
        assert name == f"event: {found[-1]['type']}"
    return found


def _items(events: list[Json]) -> list[Json]:
    """Add up the deltas of a Responses stream; everything that is opened must be closed, one by one."""
    items: list[Json] = []
    opened: list[str] = []
    said = ""
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert not opened
            assert event["output_index"] == len(items)
            opened, said = [event["item"]["id"]], ""
        elif kind.endswith("part.added"):
            opened.append(event["item_id"])
        elif kind.endswith(".delta"):
            assert event["item_id"] == opened[-1]
            said += event["delta"]
        elif kind.endswith("part.done"):
            assert event["item_id"] == opened.pop()
        elif kind == "output_item.done":
            assert event["item"]["id"] == opened.pop()
            assert said == _said(event["item"])
            items.append(event["item"])
        elif kind.endswith(".done"):
            assert said in (event.get("text"), event.get("refusal"), event.get("arguments"))
    assert not opened
    return items


def _said(item: Json) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    (part,) = item["content"] if item["type"] == "message" else item["summary"]
    return str(part["refusal"] if part["type"] == "refusal" else part["text"])


def _message(events: list[Json]) -> Json:
    """Add up a Messages stream; blocks open and close one by one."""
    first, last = events[0], events[-2:]
    assert (first["type"], last[0]["type"], last[1]["type"]) == (
        "message_start",
        "message_delta",
        "message_stop",
    )
    message, given, opened = first["message"], "", False
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert not opened
            assert event["index"] == len(message["content"])
            message["content"].append(event["content_block"])
            given, opened = "", True
            continue
        assert opened
        assert event["index"] == len(message["content"]) - 1
        block = message["content"][-1]
        if event["type"] == "content_block_stop":
            opened = False
            if block["type"] == "tool_use":
                block["input"] = json.loads(given or "{}")
            continue
        delta = event["delta"]
        name = delta["type"].removesuffix("_delta")
        if name == "input_json":
            given += delta["partial_json"]
        else:
            block[name] += delta[name]
    assert not opened
    message["usage"] |= last[0]["usage"]
    return dict(message | last[0]["delta"])
