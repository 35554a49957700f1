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
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from support.express_stand_in import Caller, Gateway, gateway_on, unchunked
from support.market import Market, environment_of
from support.postgres import create_database
from support.upstream import (
    Asked,
    Reply,
    Upstream,
    add_endpoint,
    change_endpoints,
    refuses,
    usual,
)
from support.upstream_answers import chat_usage, data

from catalog.ground.clock import now_us
from catalog.ground.ids import new_id, ulid
from marketplace.gateway.reserves import BUSY
from marketplace.gateway.shapes import CHAT
from marketplace.ledger.operations import Hold, Leg, Release
from marketplace.prices.components import Components

if TYPE_CHECKING:
    from marketplace.gateway.express._core import Core

PRICE = Components(input_u_per_m=2_000_000, output_u_per_m=9_000_000, cache_read_u_per_m=500_000)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def seeded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """A marketplace's database, with no gateway but the test's own."""
    folder: Path = tmp_path_factory.mktemp("resumed")
    url = f"sqlite:///{folder / 'tokenmart.db'}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        url = create_database(server, f"resumed_{ulid().lower()}")
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
    places: int | None = None
    """How many calls each engine takes at once."""


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


_UNLIKE = ("chunks", "express", "resumed")
"""Counters that tell whose the call was, or in how many pieces a stream has come, which is chance."""
SERVED = f"{CHAT} 200"
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
    # What came in one piece with an error and behind it would be sent on.
    "stream that fails at once": Fault(stream(_with(ERROR, 0), waits=True, after=1), STREAM),
    "stream that fails": Fault(stream(_with(ERROR, 3), waits=True, after=4), STREAM),
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
    "in its turn": Fault(whole(), places=8),
    "in its turn, status 500": Fault(says(refuses(500)), places=8),
    "in its turn, a stream that is left": Fault(
        stream(waits=True, after=3), STREAM, lambda _, told: told.count(b"data: ") == 3, places=8
    ),
    "in its turn, the next engine": Fault(says(refuses(500)), engines=2, places=8),
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
    if fault.places is not None:
        await asyncio.to_thread(change_endpoints, market, slug, max_concurrency=fault.places)
    org_id, key = await asyncio.to_thread(market.organisation, 10**9)
    caller = Caller(org_id, key, slug)
    await gateway.busy(caller)
    gateway.lane = lane
    counted = gateway.hot.counters.requests
    before_it = counted.get(SERVED, 0)
    await gateway.told(caller.request())  # so that a connection to the engine is kept
    await gateway.quiet()
    if lane and gateway.express is not None:
        assert counted[SERVED] == before_it  # it has not been Python's
        gateway.express.count()
        assert counted[SERVED] == before_it + 1
    for engine in mine:
        engine.asked.clear()
    before = msgspec.to_builtins(gateway.hot.counters)
    fault.script(mine[0])
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
    if gateway.express is not None:
        gateway.express.count()
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
        elif name not in _UNLIKE:
            found[name] = now - then
    return found


def _compare(
    market: Market, fault: Fault, engines: list[Upstream], core: type[Core] | None = None
) -> None:
    async def story() -> None:
        async with gateway_on(market, core) as gateway:
            python = await _met(gateway, fault, engines, lane=False)
            resumed = await _met(gateway, fault, engines, lane=True)
            assert python == resumed
            assert not python["running"]
            assert not python["open"]
            assert all(out == 0 for out, *_ in python["reserved"])

    asyncio.run(story())


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


@pytest.mark.parametrize("seeded", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", FAULTS)
def test_a_call_that_compiled_code_begins_ends_as_pythons(
    seeded: Market, engines: list[Upstream], name: str, core: type[Core]
) -> None:
    _compare(seeded, FAULTS[name], engines, core)


@pytest.mark.parametrize("seeded", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "name", ["whole", "stream with usage", "stream, left", "stream, closed", "status 503"]
)
def test_a_call_that_compiled_code_begins_ends_as_pythons_on_postgresql(
    seeded: Market, engines: list[Upstream], name: str, core: type[Core]
) -> None:
    _compare(seeded, FAULTS[name], engines, core)


async def _begun(gateway: Gateway, engine: Upstream) -> Caller:
    """Return a caller with a reserve, and let its connections be taken by the stand-in."""
    engine.reset()
    slug = await asyncio.to_thread(
        gateway.market.listing, PRICE, url=engine.url, model="m", context_length=100_000
    )
    org_id, key = await asyncio.to_thread(gateway.market.organisation, 10**9)
    caller = Caller(org_id, key, slug)
    await gateway.busy(caller)
    gateway.lane = True
    return caller


def test_what_the_lane_has_booked_is_not_booked_again(seeded: Market, engine: Upstream) -> None:
    """The compiled writer does not know whether its charge is durable; Python's asks by the event's id."""

    async def story() -> None:
        async with gateway_on(seeded) as gateway:
            caller = await _begun(gateway, engine)
            before = gateway.standing(caller)
            engine.script(lambda asked: Reply(events=list(usual(asked).events)))
            gateway.charges_first = True
            told = await gateway.told(caller.request(**USAGE))
            await gateway.quiet()
            after = gateway.standing(caller)
            assert unchunked(told)[1].endswith(b"\n\ndata: [DONE]\n\n")
            assert len(after["events"]) == len(before["events"]) + 1
            assert after["events"][-1]["outcome"] == "ok"
            cost = int(re.search(rb"cost_u=(\d+)", told)[1])  # type: ignore[index]
            spent = sum(
                now["dr_posted"] - then["dr_posted"]
                for rows, rows_before in zip(
                    after["accounts"].values(), before["accounts"].values(), strict=True
                )
                for now, then in zip(rows, rows_before, strict=True)
            )
            assert spent == cost

    asyncio.run(story())


def test_a_charge_that_is_refused_is_paid_out_of_the_reserve(
    seeded: Market, engine: Upstream
) -> None:
    async def story() -> None:
        async with gateway_on(seeded) as gateway:
            caller = await _begun(gateway, engine)
            (reserve,) = [
                each for each in gateway.hot.reserves._open.values()
                if each.org_id == caller.org_id
            ]  # fmt: skip
            # Somebody else takes all that is there beside the reserve.
            free = gateway.rows(
                "SELECT cr_posted - dr_posted - dr_pending AS free FROM ledger_account WHERE id = :id",
                id=reserve.account_id,
            )[0]["free"]
            books, hot = gateway.hot.books, gateway.hot
            leg = Leg(reserve.account_id, free, books.clearing)
            held = Hold(
                new_id("test"), caller.org_id, (reserve.account_id,), lambda _: ((leg,), "{}"),
                now_us(), now_us() + 60_000_000,
            )  # fmt: skip
            await hot.writer.apply(held)
            told = await gateway.told(caller.request())
            await gateway.quiet()
            assert told.startswith(b"HTTP/1.1 200 ")
            await hot.writer.apply(Release(held.tx, now_us()))
            after = gateway.standing(caller)
            assert after["events"][-1]["outcome"] == "ok"
            assert not reserve.out
            assert hot.reserves._open.get(reserve.account_id) is not reserve

    asyncio.run(story())


@pytest.mark.parametrize("sent", [False, True])
def test_a_client_that_left_before_its_engine_heard_of_the_call_pays_nothing(
    seeded: Market, engine: Upstream, sent: bool
) -> None:
    """Whether the engine may have heard is what the lane says; what it has made is counted."""

    async def story() -> None:
        async with gateway_on(seeded) as gateway:
            caller = await _begun(gateway, engine)
            before = gateway.standing(caller)
            gateway.leaves_after = sent
            assert await gateway.told(caller.request(max_tokens=7)) == b""
            await gateway.quiet()
            after = gateway.standing(caller)
            assert len(after["events"]) == len(before["events"]) + sent
            assert gateway.hot.counters.voided == (not sent)
            assert not engine.asked[BUSY + 1 :]
            assert gateway.hot.counters.cancelled == sent
            assert gateway.hot.counters.requests[f"{CHAT} 499"] == 1
            for name in ("holds", "open", "running"):
                assert not after[name]
            assert all(out == 0 for out, *_ in after["reserved"])
            if sent:
                event = after["events"][-1]
                assert (event["outcome"], event["usage_source"]) == ("cancelled", "counted")

    asyncio.run(story())
