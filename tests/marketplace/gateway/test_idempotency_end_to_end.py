"""The same Idempotency-Key twice: the same answer, one bill, whatever happened to the first try."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from support.market import Market, wait_until
from support.upstream import (
    Asked,
    Reply,
    Upstream,
    add_endpoint,
    events_of,
    holds_of,
    refuses,
    usual,
)
from support.upstream_answers import TEXT

from marketplace.prices.components import Components

PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=10_000)


class Caller:
    """An organisation that calls one listing with a key for repeating."""

    def __init__(self, market: Market, engine: Upstream) -> None:
        self.market = market
        self.engine = engine
        self.slug = market.listing(PER_CALL, url=engine.url, model="m", context_length=100_000)
        self.org_id, self.key = market.organisation(voucher_u=1_000_000)
        self.client = httpx2.Client(
            base_url=market.url, headers={"authorization": f"Bearer {self.key}"}, timeout=30
        )

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"model": self.slug, "messages": [{"role": "user", "content": "hello"}]} | fields

    def ask(self, name: str, path: str = "/v1/chat/completions", **fields: Any) -> httpx2.Response:
        """Send a request under this key."""
        headers = {"idempotency-key": name}
        return self.client.post(path, json=self.body(**fields), headers=headers)

    def billed_once(self) -> bool:
        events = events_of(self.market, self.org_id)
        assert holds_of(self.market, self.org_id) == 0
        return [(event.cost_u, event.voucher_u) for event in events] == [(10_000, 10_000)]


@pytest.fixture
def caller(market: Market, engine: Upstream) -> Iterator[Caller]:
    made = Caller(market, engine)
    yield made
    made.client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_request_has_the_same_answer(caller: Caller, stream: bool) -> None:
    wishes: dict[str, Any] = {"stream": stream}
    if stream:
        wishes["stream_options"] = {"include_usage": True}
    first, second, third = (caller.ask("a", **wishes) for _ in range(3))
    assert (first.status_code, second.status_code) == (200, 200)
    assert "idempotent-replayed" not in first.headers
    for again in (second, third):
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["content-type"] == first.headers["content-type"]
        assert again.headers["x-tm-generation"] == first.headers["x-tm-generation"]
        assert _without_comments(again.text) == _without_comments(first.text)
    assert TEXT in first.text or stream
    assert len(caller.engine.asked) == 1
    assert caller.billed_once()


def _without_comments(stream: str) -> str:
    """A stream's cost is a comment, which only the first answer has."""
    return re.sub(r"^:.*\n\n?", "", stream, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"input": "hello"}),
        ("/v1/responses", {"input": "hello", "stream": True}),
        ("/v1/messages", {"max_tokens": 8}),
        ("/v1/messages", {"max_tokens": 8, "stream": True}),
        ("/v1/embeddings", {"input": "hello"}),
    ],
)
def test_other_shapes(caller: Caller, path: str, fields: dict[str, Any]) -> None:
    asked = caller.body(**fields)
    if "input" in fields:
        del asked["messages"]
    headers = {"idempotency-key": "shape"}
    first, second = (caller.client.post(path, json=asked, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200), first.text
    assert second.headers["idempotent-replayed"] == "true"
    assert second.text == _without_comments(first.text)
    assert caller.billed_once()


def test_another_request_is_refused(caller: Caller) -> None:
    assert caller.ask("b").status_code == 200
    for other in (caller.ask("b", temperature=1), caller.ask("b", stream=True)):
        assert other.status_code == 422
        assert other.json()["error"]["code"] == "idempotency_key_reused"
    path = caller.client.post(
        "/v1/messages", json=caller.body(max_tokens=4), headers={"idempotency-key": "b"}
    )
    assert (path.status_code, path.json()["error"]["type"]) == (422, "invalid_request_error")
    assert caller.billed_once()


def test_a_key_is_its_organisations_own(caller: Caller) -> None:
    assert caller.ask("shared").status_code == 200
    _, stranger = caller.market.organisation(voucher_u=1_000_000)
    headers = {"idempotency-key": "shared", "authorization": f"Bearer {stranger}"}
    other = caller.client.post("/v1/chat/completions", json=caller.body(), headers=headers)
    assert other.status_code == 200
    assert "idempotent-replayed" not in other.headers
    assert caller.billed_once()


@pytest.mark.parametrize("name", ["", "x" * 256, "é"])
def test_a_key_that_is_none(caller: Caller, name: str) -> None:
    headers = {"idempotency-key": name.encode()}
    told = caller.client.post("/v1/chat/completions", json=caller.body(), headers=headers)  # type: ignore[arg-type]
    assert told.status_code == 400
    assert told.json()["error"]["code"] == "invalid_idempotency_key"
    assert caller.engine.asked == []


@pytest.mark.parametrize("stream", [False, True])
def test_sixteen_at_once_are_one_call(caller: Caller, stream: bool) -> None:
    """The first runs while the others come; each of these is refused, or told what the first was told."""
    waiting = Reply(events=_events(caller)) if stream else usual(_asked(caller))
    waiting.waits = True
    caller.engine.script(waiting)

    async def calls() -> list[httpx2.Response]:
        headers = {"idempotency-key": "c", "authorization": f"Bearer {caller.key}"}
        async with httpx2.AsyncClient(base_url=caller.market.url, headers=headers) as client:
            body = caller.body(stream=stream)
            asking = [
                asyncio.ensure_future(client.post("/v1/chat/completions", json=body, timeout=30))
                for _ in range(16)
            ]
            while sum(task.done() for task in asking) < 15:
                await asyncio.sleep(0.01)
            caller.engine.go()
            return await asyncio.gather(*asking)

    answers = asyncio.run(calls())
    assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 15}
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error"]["code"] == "idempotency_key_in_use"
            assert int(answer.headers["retry-after"]) >= 1
    assert caller.ask("c", stream=stream).headers["idempotent-replayed"] == "true"
    assert len(caller.engine.asked) == 1
    assert caller.billed_once()


def _asked(caller: Caller) -> Asked:
    return Asked("/v1/chat/completions", {}, json.dumps(caller.body()).encode())


def _events(caller: Caller) -> Any:
    document = caller.body(stream=True, stream_options={"include_usage": True})
    return usual(Asked("/v1/chat/completions", {}, json.dumps(document).encode())).events


def test_sixteen_at_once_that_nobody_holds_up(caller: Caller) -> None:
    async def calls() -> list[httpx2.Response]:
        headers = {"idempotency-key": "d", "authorization": f"Bearer {caller.key}"}
        async with httpx2.AsyncClient(base_url=caller.market.url, headers=headers) as client:
            asking = [
                client.post("/v1/chat/completions", json=caller.body(), timeout=30)
                for _ in range(16)
            ]
            return await asyncio.gather(*asking)

    answers = asyncio.run(calls())
    assert {answer.status_code for answer in answers} <= {200, 409}
    served = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.text for answer in served}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in served) == 1
    assert len(caller.engine.asked) == 1
    assert caller.billed_once()


@pytest.mark.parametrize("stream", [False, True])
def test_what_failed_upstream_is_served_by_the_next_try(caller: Caller, stream: bool) -> None:
    def breaks(asked: Asked) -> Reply:
        if not stream:
            return refuses(500)
        return Reply(events=usual(asked).events, after=3, fails="close")

    caller.engine.script(breaks, breaks)
    for _ in range(2):
        told = caller.ask("e", stream=stream)
        assert told.status_code == 200 if stream else told.status_code == 502
        assert "[DONE]" not in told.text
        assert events_of(caller.market, caller.org_id) == []
    served = caller.ask("e", stream=stream)
    assert (served.status_code, served.headers.get("idempotent-replayed")) == (200, None)
    assert stream is ("[DONE]" in served.text)
    assert caller.ask("e", stream=stream).headers["idempotent-replayed"] == "true"
    assert len(caller.engine.asked) == 3
    assert caller.billed_once()


def test_what_was_refused_may_be_tried_again(caller: Caller) -> None:
    poor_id, poor = caller.market.organisation()
    headers = {"idempotency-key": "f", "authorization": f"Bearer {poor}"}
    for _ in range(2):
        told = caller.client.post("/v1/chat/completions", json=caller.body(), headers=headers)
        assert told.status_code == 402
    assert events_of(caller.market, poor_id) == []
    caller.engine.script(refuses(400, "no"))
    assert caller.ask("f").status_code == 400
    assert caller.ask("f").status_code == 200
    assert caller.billed_once()


def test_a_fallback_keeps_the_key(caller: Caller, engines: list[Upstream]) -> None:
    other = caller.market.listing(PER_CALL, url=engines[1].url, model="m", context_length=100_000)
    caller.engine.script(refuses(500))
    first, second = (caller.ask("g", models=[other]) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.headers["idempotent-replayed"] == "true"
    assert caller.billed_once()


def test_a_retry_on_another_engine_keeps_the_key(caller: Caller, engines: list[Upstream]) -> None:
    add_endpoint(caller.market, caller.slug, engines[1], priority=1)
    caller.engine.answer = lambda asked: refuses(500)
    first, second = caller.ask("h"), caller.ask("h")
    assert (first.status_code, second.text) == (200, first.text)
    assert caller.billed_once()


def test_a_client_that_left_is_told_that_the_call_has_ended(caller: Caller) -> None:
    waiting = Reply(events=_events(caller), waits=True, after=2)
    caller.engine.script(waiting)
    headers = {"idempotency-key": "i"}
    with caller.client.stream(
        "POST", "/v1/chat/completions", json=caller.body(stream=True), headers=headers
    ) as answer:
        next(answer.iter_raw())
    wait_until(lambda: len(events_of(caller.market, caller.org_id)) == 1)
    caller.engine.go()
    told = caller.ask("i", stream=True)
    assert (told.status_code, told.json()["error"]["code"]) == (409, "idempotency_answer_gone")
    assert told.headers["x-should-retry"] == "false"
    assert len(caller.engine.asked) == 1
    assert caller.billed_once()


def test_the_openai_sdk_repeats_until_it_is_served(caller: Caller) -> None:
    caller.engine.script(refuses(500), refuses(500))
    with openai.OpenAI(
        base_url=f"{caller.market.url}/v1", api_key=caller.key, max_retries=3
    ) as client:
        asked: dict[str, Any] = caller.body()
        again = {"Idempotency-Key": "sdk-1"}
        first = client.chat.completions.create(**asked, extra_headers=again)
        second = client.chat.completions.create(**asked, extra_headers=again)
    assert first == second
    assert len(caller.engine.asked) == 3
    assert caller.billed_once()
