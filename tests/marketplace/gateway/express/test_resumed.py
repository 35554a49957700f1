"""A call that the lane gives up ends as if Python had served it from its first byte, whatever has happened.

Each fault is met twice, by a call that is Python's and by one that was begun for it (see
`support.express_stand_in`). Both must come to the same: status, headers and body, bill, ledger rows, holds,
reserves, limits, the engine's health and what was counted.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.express_stand_in import Caller, Gateway, gateway_on, unchunked
from support.market import Market, environment_of
from support.upstream import Asked, Reply, Upstream, add_endpoint, refuses, usual
from support.upstream_answers import chat_usage, data

from catalog.ground.ids import ulid
from marketplace.prices.components import Components

PRICE = Components(input_u_per_m=2_000_000, output_u_per_m=9_000_000, cache_read_u_per_m=500_000)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def seeded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """A marketplace's database, with no gateway but the test's own."""
    folder: Path = tmp_path_factory.mktemp("resumed")
    url = f"sqlite:///{folder / 'tokenmart.db'}"
    if request.param == "postgresql":
        import psycopg

        server = request.getfixturevalue("postgres_server")
        name = f"resumed_{ulid().lower()}"
        with psycopg.connect(server("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = server(name)
    market = Market(folder, url, environment_of(folder, url))
    made = market.run("init")
    assert made.returncode == 0, made.stderr
    yield market
    assert market.problems() == []


Script = Callable[[Upstream], None]


@dataclass
class Fault:
    """What an engine does with one call, what the client asks, and when it leaves."""

    script: Script
    fields: dict[str, Any] = field(default_factory=dict)
    leaves: Callable[[Upstream, bytes], bool] | None = None
    engines: int = 1


def says(*replies: Any) -> Script:
    return lambda engine: engine.script(*replies)


def whole(**changes: Any) -> Script:
    def reply(asked: Asked) -> Reply:
        document = usual(asked).document or {}
        kept = {k: v for k, v in (document | changes).items() if v is not ...}
        return Reply(kept)

    return says(reply)


def stream(change: Callable[[list[bytes]], list[bytes]] = list, **reply: Any) -> Script:
    return says(lambda asked: Reply(events=change(list(usual(asked).events)), **reply))


def _without_usage(events: list[bytes]) -> list[bytes]:
    kept = []
    for event in events:
        if event.startswith(b"data: {"):
            document = json.loads(event[6:])
            document.pop("usage", None)
            if not document["choices"]:
                continue
            kept.append(data(document))
        else:
            kept.append(event)
    return kept


def _with(event: bytes, at: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda events: [*events[:at], event, *events[at:]]


ERROR = data({"error": {"message": "out of memory", "code": 500}})
STREAM: dict[str, Any] = {"stream": True}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
FAULTS = {
    "whole": Fault(whole()),
    "whole without usage": Fault(whole(usage=...)),
    "whole, no usage object": Fault(whole(usage=None)),
    "whole, more than was allowed": Fault(whole(usage=chat_usage(5_000))),
    "whole, odd usage": Fault(whole(usage={"prompt_tokens": 11, "completion_tokens": -3})),
    "whole, an error in spite of 200": Fault(says(Reply({"error": {"message": "no"}}))),
    "whole, no object": Fault(says(lambda _: Reply([1, 2]))),  # type: ignore[arg-type]
    "shortened": Fault(whole(), {"max_tokens": 3}),
    "status 400": Fault(says(refuses(400, "too odd", code="odd", param="messages"))),
    "status 404": Fault(says(refuses(404))),
    "status 422": Fault(says(refuses(422, "<b>no</b>"))),
    "status 429": Fault(says(refuses(429))),
    "status 500": Fault(says(refuses(500))),
    "status 503": Fault(
        says(Reply({"error": {"message": "busy"}}, status=503, headers={"retry-after": "7"}))
    ),
    "status 504": Fault(says(refuses(504))),
    "reset": Fault(says(Reply({}, fails="reset"))),
    "closed": Fault(says(Reply({}, fails="close"))),
    "broken in the middle": Fault(says(Reply({}, fails="close", after=1))),
    "silent": Fault(says(Reply({}, waits=True))),
    "away": Fault(Upstream.down),
    "left while it waits": Fault(
        says(Reply({}, waits=True)), leaves=lambda engine, _: len(engine.asked) > 0
    ),
    "stream": Fault(stream(), STREAM),
    "stream with usage": Fault(stream(), USAGE),
    "stream without usage": Fault(stream(_without_usage), STREAM),
    "stream without usage that is asked for": Fault(stream(_without_usage), USAGE),
    "stream of one empty answer": Fault(stream(lambda events: events[-2:]), USAGE),
    "stream without an end": Fault(stream(lambda events: events[:-1]), STREAM),
    "stream without the last line": Fault(
        stream(lambda events: [*events[:-1], events[-1].rstrip(b"\n")]), STREAM
    ),
    "stream of nothing": Fault(stream(lambda _: [b": hello\n\n"]), STREAM),
    "stream that fails at once": Fault(stream(_with(ERROR, 0)), STREAM),
    "stream that fails": Fault(stream(_with(ERROR, 3)), STREAM),
    "stream, an event that is no JSON": Fault(stream(_with(b"data: {nonsense\n\n", 2)), USAGE),
    "stream, odd usage": Fault(
        stream(_with(data({"choices": [], "usage": {"prompt_tokens": -1}}), -1)), STREAM
    ),
    "stream, status 400": Fault(says(refuses(400, "no streams")), STREAM),
    "stream, status 500": Fault(says(refuses(500)), STREAM),
    "stream, away": Fault(Upstream.down, STREAM),
    "stream, reset at once": Fault(stream(fails="reset", after=0), STREAM),
    "stream, closed": Fault(stream(fails="close", after=3), STREAM),
    "stream, silent": Fault(stream(waits=True, after=3), STREAM),
    "stream, silent from the start": Fault(stream(waits=True, after=0), STREAM),
    "stream, left": Fault(
        stream(waits=True, after=3), STREAM, lambda _, told: told.count(b"data: ") == 3
    ),
    "stream without usage, left": Fault(
        stream(_without_usage, waits=True, after=3), STREAM,
        lambda _, told: told.count(b"data: ") == 3,
    ),
    "stream, left before it begins": Fault(
        stream(waits=True, after=0), STREAM, lambda engine, _: len(engine.asked) > 0
    ),
    "the next engine": Fault(says(refuses(500)), engines=2),
    "the next engine streams": Fault(says(refuses(500)), USAGE, engines=2),
    "the next engine for one that is away": Fault(Upstream.down, engines=2),
    "the next engine for one that is silent": Fault(says(Reply({}, waits=True)), engines=2),
    "no other engine for what has begun": Fault(
        stream(fails="close", after=3), STREAM, engines=2
    ),
}  # fmt: skip


async def _met(
    gateway: Gateway, fault: Fault, engines: list[Upstream], *, lane: bool
) -> dict[str, Any]:
    """Let one call meet a fault; return all that has come of it."""
    market, mine = gateway.market, engines[: fault.engines]
    for engine in engines:
        engine.reset()
    slug = await asyncio.to_thread(
        market.listing, PRICE, url=mine[0].url, model="m", context_length=100_000
    )
    for number, engine in enumerate(mine[1:], 1):
        # The lane chooses as Python does; here both meet the fault first.
        await asyncio.to_thread(add_endpoint, market, slug, engine, priority=number)
    org_id, key = await asyncio.to_thread(market.organisation, 10**9)
    caller = Caller(org_id, key, slug)
    await gateway.busy(caller)
    for engine in mine:
        engine.asked.clear()
    before = msgspec.to_builtins(gateway.hot.counters)
    fault.script(mine[0])
    gateway.lane = lane
    leaves = fault.leaves
    until = None if leaves is None else lambda told: leaves(mine[0], told)
    try:
        told = await gateway.told(caller.request(**fault.fields), until)
        await gateway.quiet()
    finally:
        gateway.lane = False
        for engine in mine:
            engine.go()
            if engine._server is None:
                engine.start()
    after = msgspec.to_builtins(gateway.hot.counters)
    head, body = unchunked(told)
    found = gateway.standing(caller) | {
        "head": [_plain(line) for line in head] if until is None else head[:1],
        "body": re.sub(rb"gen_\w+", b"GEN", body).replace(slug.encode(), b"SLUG"),
        "asked": [len(engine.asked) for engine in mine],
        "counted": _difference(before, after, slug),
    }
    await asyncio.sleep(0)
    return found


def _plain(line: str) -> str:
    if line.startswith(("x-ratelimit-reset", "x-ratelimit-remaining-tokens", "x-tm-price-version")):
        return line.partition(":")[0]
    return re.sub(r"gen_\w+", "GEN", line)


def _difference(before: dict[str, Any], after: dict[str, Any], slug: str) -> dict[str, Any]:
    """Return what was counted in between: how often, not how long it took."""
    found: dict[str, Any] = {}
    for name, now in after.items():
        then = before[name]
        if isinstance(now, dict) and "counts" in now:
            found[name] = sum(now["counts"]) - sum(then["counts"])
        elif isinstance(now, dict):
            more = {key: count - then.get(key, 0) for key, count in now.items()}
            # An engine's id is made anew each time; what is told of it is not.
            found[name] = {
                re.sub(r"ept_\w+", "ept", key).replace(slug, "slug"): count
                for key, count in more.items()
                if count
            }
        elif name != "chunks":  # in how many pieces a stream arrives is chance
            found[name] = now - then
    return found


def _compare(market: Market, fault: Fault, engines: list[Upstream], **told: Any) -> dict[str, Any]:
    async def story() -> dict[str, Any]:
        async with gateway_on(market, **told) as gateway:
            python = await _met(gateway, fault, engines, lane=False)
            resumed = await _met(gateway, fault, engines, lane=True)
            assert python == resumed
            assert not python["running"]
            assert not python["open"]
            assert all(out == 0 for out, *_ in python["reserved"])
            return python

    return asyncio.run(story())


@pytest.mark.parametrize("seeded", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", FAULTS)
def test_a_call_that_is_given_up_ends_as_pythons(
    seeded: Market, engines: list[Upstream], name: str
) -> None:
    _compare(seeded, FAULTS[name], engines)


@pytest.mark.parametrize("seeded", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", ["whole", "stream, left", "stream, closed", "status 503"])
def test_a_call_that_is_given_up_ends_as_pythons_on_postgresql(
    seeded: Market, engines: list[Upstream], name: str
) -> None:
    _compare(seeded, FAULTS[name], engines)
