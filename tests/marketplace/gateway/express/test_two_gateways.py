"""Calls of every kind through a gateway with compiled code and one without: nobody can tell which it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from proofs.express_calls import play
from support.two_gateways import PRICE, Two, two_gateways
from support.upstream import Reply, Upstream, add_endpoint, refuses, upstreams
from support.upstream_answers import chat, chat_events, data

pytest.importorskip("marketplace.gateway.express._core")

SEED = "20261122"
SECONDS = 10


@pytest.fixture(scope="module")
def _engines() -> Iterator[list[Upstream]]:
    with upstreams(3) as running:
        yield running


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, _engines: list[Upstream]) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("two")
    with two_gateways(folder, lambda name: f"sqlite:///{folder / name}.db", _engines, 12) as two:
        yield two


@dataclass
class Case:
    """A request, what the engine makes of it, and whether compiled code serves it to its end."""

    body: dict[str, Any] | bytes
    reply: Reply | None = None
    compiled: bool = True
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return json.dumps(self.body, separators=(",", ":"), ensure_ascii=False).encode()


def _asks(**more: Any) -> dict[str, Any]:
    return {"model": "MODEL", "messages": [{"role": "user", "content": '你好, "world"'}], **more}


def _says(usage: Any, **more: Any) -> Reply:
    return Reply(chat({"model": "m"}) | {"usage": usage} | more)


def _streams(*events: dict[str, Any] | str) -> Reply:
    return Reply(events=[data(event) for event in events])


def _chunk(words: str, **more: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": words}}], **more}


_STREAM = {"model": "m", "stream_options": {"include_usage": True}}
_USAGE_STREAM = {"stream": True, "stream_options": {"include_usage": True}}
_PLAIN_STREAM = {"stream": True}
_TOKENS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
_NO_CHOICES = {"id": "c", "choices": [], "usage": _TOKENS}

CASES = {
    "plain": Case(_asks()),
    "bounded": Case(_asks(max_tokens=7, temperature=0.5, seed=1, stop=["a", "b"])),
    "by the newer name": Case(_asks(max_completion_tokens=9, top_p=1, user="\U0001f600 u")),
    "with tools": Case(
        _asks(tools=[{"type": "function", "function": {"name": "weather", "parameters": {}}}])
    ),
    "spaced": Case(b' { "model" : "MODEL" , "messages" : [ ] , "max_tokens" : 30 }\n'),
    "stream": Case(_asks(**_PLAIN_STREAM)),
    "stream with usage": Case(_asks(**_USAGE_STREAM)),
    "stream with usage all along": Case(
        _asks(**_USAGE_STREAM),
        _streams(_chunk("a", usage=_TOKENS), _chunk("b", usage=_TOKENS), _NO_CHOICES, "[DONE]"),
    ),
    "stream of usage alone": Case(_asks(**_PLAIN_STREAM), _streams(_NO_CHOICES, "[DONE]")),
    "usage in parts": Case(
        _asks(),
        _says(
            {
                "prompt_tokens": 20,
                "completion_tokens": 9,
                "total_tokens": 29,
                "prompt_tokens_details": {"cached_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 4},
            }
        ),
    ),
    "odd usage": Case(_asks(), _says({"prompt_tokens": 3, "completion_tokens": -2}), False),
    "too much usage": Case(
        _asks(max_tokens=4),
        _says({"prompt_tokens": 3, "completion_tokens": 900, "total_tokens": 903}),
        False,
    ),
    "no usage": Case(_asks(), _says(None), False),
    "stream without usage": Case(_asks(**_PLAIN_STREAM), _streams(_chunk("a"), "[DONE]"), False),
    "stream that breaks off": Case(
        _asks(**_PLAIN_STREAM), Reply(events=chat_events(_STREAM), fails="close", after=2), False
    ),
    "stream with an error": Case(
        _asks(**_PLAIN_STREAM), _streams(_chunk("a"), {"error": {"message": "no"}}), False
    ),
    # What is kept for Python's reader has an event of its own here, which nobody may see.
    "stream of lone returns": Case(
        _asks(**_PLAIN_STREAM), Reply(events=[b"data: {}\r\rdata: [DONE]\r\r"]), False
    ),
    "engine refuses": Case(_asks(), refuses(400, "too long", code="x"), False),
    "engine fails": Case(_asks(), refuses(500), False),
    "engine had hung up": Case(_asks(), Reply({}, fails="reset")),  # it is asked once more
    "engine breaks off": Case(_asks(), Reply({}, fails="reset", after=1), False),
    "an answer that is none": Case(_asks(), Reply({"error": {"message": "no"}}), False),
    "two choices": Case(_asks(n=2), None, False),
    "a name twice": Case(
        b'{"model":"MODEL","messages":[],"max_tokens":3,"max_tokens":4}', None, False
    ),
    "a picture": Case(
        _asks(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        None,
        False,
    ),
    "no such model": Case(_asks(model="nobody/none"), None, False),
    "no JSON": Case(b'{"model":"MODEL",', None, False),
    "under a key": Case(_asks(), None, False, {"idempotency-key": "once"}),
    "as curl writes it": Case(_asks(), headers={"accept": "*/*", "user-agent": "curl/8.0"}),
}


@pytest.mark.parametrize("name", CASES)
def test_nobody_can_tell_which_it_was(two: Two, name: str) -> None:
    case = CASES[name]

    def prepare(engine: Upstream) -> None:
        if case.reply is not None:
            engine.script(case.reply)

    for _ in range(5):
        compiled, plain = two.both(case.sent, prepare, **case.headers)
        if compiled.charged is not plain.charged:
            continue  # a reserve had just ended
        assert compiled.unlike(plain) == {}
        assert not plain.compiled
        if compiled.compiled is case.compiled:
            return
    pytest.fail(f"served by compiled code: {compiled.compiled}")


def test_many_engines_leave_calls_to_one_of_them_compiled(two: Two) -> None:
    """A worker knows each engine that it has asked or thought of lately."""
    gateway = two.compiled
    listing = gateway.market.listing(PRICE, model="m", url=gateway.engine.url)
    for _ in range(70):
        add_endpoint(gateway.market, listing, gateway.engine)
    with gateway.calling(listing):
        gateway.wait_until_busy(lambda outcome: outcome.status == 200)
    gateway.wait_until_busy(lambda outcome: outcome.compiled)


def test_nobody_can_tell_by_chance(two: Two) -> None:
    """The short form of `make prove-express-calls`."""
    assert play(two, time.monotonic() + SECONDS, SEED) == 0
