"""What ends a stream in each shape: its cost in a comment and its true usage, on disk before they are sent.

A replay of the same stream has no comment. So what an SDK makes of both shows that the comment changes
nothing for it.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
import pytest
from support.market import TITLE, Market
from support.upstream import (
    Asked,
    Reply,
    Upstream,
    change_endpoints,
    events_of,
    holds_of,
    usual,
)
from support.upstream_answers import INPUT, OUTPUT, TEXT

from catalog.ground.ids import ulid
from marketplace.prices.components import Components

# What a stream looks like does not depend on the database.
pytestmark = pytest.mark.parametrize("market", ["sqlite"], indirect=True)
PRICE = Components(input_u_per_m=10_000_000, output_u_per_m=20_000_000)
ASK: list[Any] = [{"role": "user", "content": TITLE}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": ASK, "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": TITLE},
    "/v1/messages": {"messages": ASK, "max_tokens": 32},
}
LAST = {
    "/v1/chat/completions": b"data: [DONE]",
    "/v1/responses": b"event: response.completed",
    "/v1/messages": b"event: message_stop",
}
NAMED = ["/v1/responses", "/v1/messages"]


def numbered(asked: Asked) -> Reply:
    """Give every event an id, as servers do whose clients may ask for what they have missed."""
    events = [b"id: %d\n%b" % (n, event) for n, event in enumerate(usual(asked).events)]
    return Reply(events=events)


def silent(asked: Asked) -> Reply:
    """Say nothing of usage."""
    return Reply(events=[_without_usage(event) for event in usual(asked).events])


def open_ended(asked: Asked) -> Reply:
    """Leave out the empty line behind the last event."""
    *events, last = usual(asked).events
    return Reply(events=[*events, last.rstrip(b"\n")])


def _without_usage(event: bytes) -> bytes:
    head, _, data = event.rstrip(b"\n").rpartition(b"data: ")
    if data == b"[DONE]":
        return event
    document = json.loads(data)
    document.pop("usage", None)
    if "response" in document:
        document["response"]["usage"] = None
    return head + b"data: " + json.dumps(document).encode() + b"\n\n"


class Payer:
    """An organisation that may stream from one engine."""

    def __init__(self, market: Market, engine: Upstream, speaks: str) -> None:
        self.market = market
        self.slug = market.listing(PRICE, url=engine.url, model="m", context_length=100_000)
        if speaks == "native":
            change_endpoints(market, self.slug, speaks='["responses", "messages"]')
        self.org_id, self.key = market.organisation(voucher_u=1_000_000)

    def lines(self, path: str) -> Any:
        """Ask for a stream and return its lines, to be read one by one."""
        body = BODIES[path] | {"model": self.slug, "stream": True}
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        request = urllib.request.Request(
            self.market.url + path, data=json.dumps(body).encode(), headers=headers
        )
        return urllib.request.urlopen(request, timeout=30)

    def told(self, path: str, key: str) -> list[Any]:
        """Return the events that the shape's own SDK makes of a stream."""
        headers = {"idempotency-key": key}
        body = BODIES[path]
        if path == "/v1/messages":
            anthropic = pytest.importorskip("anthropic")
            with anthropic.Anthropic(
                base_url=self.market.url, api_key=self.key, max_retries=0
            ) as client:
                made = client.messages.create(
                    model=self.slug, stream=True, extra_headers=headers, **body
                )
                return [event.model_dump() for event in made]
        with openai.OpenAI(
            base_url=f"{self.market.url}/v1", api_key=self.key, max_retries=0
        ) as other:
            asking: Callable[..., Any] = (
                other.responses.create if path == "/v1/responses" else other.chat.completions.create
            )
            made = asking(model=self.slug, stream=True, extra_headers=headers, **body)
            return [event.model_dump() for event in made]


@pytest.fixture(params=["translated", "native"])
def payer(request: pytest.FixtureRequest, market: Market, engine: Upstream) -> Payer:
    return Payer(market, engine, request.param)


@pytest.mark.parametrize("path", BODIES)
def test_the_cost_is_on_disk_before_it_is_told_and_stands_before_the_last_event(
    payer: Payer, path: str
) -> None:
    with payer.lines(path) as answer:
        cost = next(line for line in answer if line.startswith(b":"))
        (event,) = events_of(payer.market, payer.org_id)
        assert holds_of(payer.market, payer.org_id) == 0
        assert cost == b": cost_u=%d\n" % event.cost_u
        rest = [line.strip() for line in answer if line.strip()]
    assert rest[0] == LAST[path]
    assert sum(line.startswith((b"event:", b"data: [")) for line in rest) == 1


@pytest.mark.parametrize(
    "replies", [usual, numbered, open_ended], ids=["plain", "numbered", "open-ended"]
)
@pytest.mark.parametrize("path", BODIES)
def test_the_sdks_see_no_difference(
    payer: Payer, engine: Upstream, path: str, replies: Callable[[Asked], Reply]
) -> None:
    engine.answer = replies
    key = ulid()
    with_comment, without = payer.told(path, key), payer.told(path, key)
    assert len(engine.asked) == 1, "the second is a replay"
    assert with_comment == without
    assert "".join(_texts(path, with_comment)) == TEXT
    if path in NAMED:
        last = {"/v1/responses": "response.completed", "/v1/messages": "message_stop"}[path]
        assert with_comment[-1]["type"] == last
    assert len(events_of(payer.market, payer.org_id)) == 1


def _texts(path: str, told: list[Any]) -> list[str]:
    if path == "/v1/responses":
        return [e["delta"] for e in told if e["type"] == "response.output_text.delta"]
    if path == "/v1/messages":
        return [e["delta"]["text"] for e in told if e["type"] == "content_block_delta"]
    return [c["delta"]["content"] or "" for e in told for c in e["choices"]]


@pytest.mark.parametrize("replies", [usual, silent], ids=["told", "counted"])
@pytest.mark.parametrize("path", NAMED)
def test_the_usage_at_the_end_is_what_was_billed(
    payer: Payer, engine: Upstream, path: str, replies: Callable[[Asked], Reply]
) -> None:
    engine.answer = replies
    engine.tokens = 7  # what its tokenizer counts; what it tells by itself is 11 and 5
    told = payer.told(path, ulid())
    (event,) = events_of(payer.market, payer.org_id)
    if path == "/v1/responses":
        usage = told[-1]["response"]["usage"]
        given = usage["input_tokens"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    else:
        (delta,) = [e for e in told if e["type"] == "message_delta"]
        usage = delta["usage"]
        # Its input is told at the beginning as well, without what was cached.
        given = event.input_uncached + event.cache_read
        if usage["input_tokens"] is not None:
            given = usage["input_tokens"] + (usage["cache_read_input_tokens"] or 0)
    assert event.usage_source == ("engine" if replies is usual else "counted")
    assert (given, usage["output_tokens"]) == (
        event.input_uncached + event.cache_read,
        event.output + event.reasoning,
    )
    assert (given, usage["output_tokens"]) == ((INPUT, OUTPUT) if replies is usual else (7, 7))


def telling_as_it_goes(asked: Asked) -> Reply:
    """Tell usage in every chunk of the answer and in none of its own, as some engines do."""
    *chunks, done = [e for e in usual(asked).events if b'"choices":[]' not in e.replace(b" ", b"")]
    told = []
    for event in chunks:
        document = json.loads(event.removeprefix(b"data: "))
        usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT}
        document["usage"] = usage | {"total_tokens": INPUT + OUTPUT}
        compact = json.dumps(document, separators=(",", ":"))
        told.append(b"data: " + compact.encode() + b"\n\n")
    return Reply(events=[*told, done])


@pytest.mark.parametrize("replies", [usual, telling_as_it_goes, silent])
def test_who_asks_a_chat_for_usage_is_told_what_was_billed(
    market: Market, engine: Upstream, replies: Callable[[Asked], Reply]
) -> None:
    engine.answer = replies
    engine.tokens = 7
    payer = Payer(market, engine, "translated")
    told = payer.told("/v1/chat/completions", ulid())
    (event,) = events_of(market, payer.org_id)
    (last,) = [chunk for chunk in told if chunk["usage"] is not None]
    assert last is told[-1]
    assert (last["choices"], last["id"]) == ([], told[0]["id"])
    given = (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"])
    assert given == (event.input_uncached + event.cache_read, event.output + event.reasoning)
    assert given == ((7, 7) if replies is silent else (INPUT, OUTPUT))
