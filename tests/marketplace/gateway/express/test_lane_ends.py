"""Whatever goes wrong inside the lane, its calls end: nothing is kept of what they took.

Python's hooks raise where the lane calls them, and the core is closed while calls are at every point of
their way. Under sanitizers (`make prove-express-parsers`) this is also about memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.express_stand_in import Caller, Gateway, gateway_on
from support.market import Market, environment_of
from support.upstream import Reply, Upstream, add_endpoint, change_endpoints, refuses, usual

from marketplace.gateway.express.hooks import Hooks
from marketplace.gateway.express.lane import core_type
from marketplace.gateway.fairness import FairGate
from marketplace.prices.components import Components
from serving.routing import Router

PRICE = Components(input_u_per_m=2_000_000, output_u_per_m=9_000_000, cache_read_u_per_m=500_000)
STREAM: dict[str, Any] = {"stream": True}
pytest.importorskip("marketplace.gateway.express._core")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A marketplace's database, with no gateway but the test's own."""
    folder: Path = tmp_path_factory.mktemp("lane-ends")
    url = f"sqlite:///{folder / 'tokenmart.db'}"
    market = Market(folder, url, environment_of(folder, url))
    made = market.run("init")
    assert made.returncode == 0, made.stderr
    yield market
    assert market.problems() == []


class Broken(Exception):
    """What a hook of these tests raises."""


class Fuse:
    """Lets a method of Python's raise once it has been blown."""

    def __init__(self, patch: pytest.MonkeyPatch, of: Any, name: str, after: bool = False) -> None:
        self.blown, self.times = False, 0
        self.returned: Any = None
        method = getattr(of, name)

        def fused(*arguments: Any, **named: Any) -> Any:
            if not self.blown:
                return method(*arguments, **named)
            self.times += 1
            if after:
                self.returned = method(*arguments, **named)
            raise Broken(name)

        patch.setattr(of, name, fused)


async def _caller(gateway: Gateway, engines: list[Upstream], places: int | None = None) -> Caller:
    """Return a caller whose calls the lane serves."""
    market = gateway.market
    for engine in engines:
        engine.reset()
    slug = await asyncio.to_thread(
        market.listing, PRICE, url=engines[0].url, model="m", context_length=100_000
    )
    for engine in engines[1:]:
        await asyncio.to_thread(add_endpoint, market, slug, engine)
    if places is not None:
        await asyncio.to_thread(change_endpoints, market, slug, max_concurrency=places)
    org_id, key = await asyncio.to_thread(market.organisation, 10**9)
    caller = Caller(org_id, key, slug)
    await gateway.busy(caller)
    for engine in engines:  # so that there is a connection to each, and their addresses are known
        for _ in range(20):
            if engine.asked:
                break
            await gateway.told(caller.request())
    gateway.lane = True
    await gateway.told(caller.request())
    await gateway.quiet()
    assert _taken(gateway)
    return caller


def _taken(gateway: Gateway) -> int:
    """Return how many calls the lane has taken since it was asked last."""
    assert gateway.express is not None
    before = gateway.hot.counters.promised
    gateway.express.count()
    taken: int = gateway.hot.counters.promised - before
    return taken


def _kept(gateway: Gateway, caller: Caller) -> dict[str, Any]:
    """Return what is still taken, of limits, engines, reserves and turns."""
    found = gateway.standing(caller)
    turns = gateway.hot.turns.gate(gateway._record(caller))
    reserves = gateway.hot.reserves
    every = [*reserves._open.values(), *reserves._all_leaving()]
    return {
        "limits": found["running"],
        "engines": [in_flight for in_flight, *_ in found["engines"] if in_flight],
        "reserves": [reserve.out for reserve in every if reserve.out],
        "turns": turns.running if turns is not None else 0,
        "open": found["open"],
    }


NOTHING = {"limits": [], "engines": [], "reserves": [], "turns": 0, "open": {}}


def _tell(story: Callable[[], Any]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(timed())


@pytest.fixture(autouse=True)
def unraised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nobody could be told of."""
    told: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: told.append(repr(args.exc_value)))
    return told


@pytest.mark.parametrize("places", [None, 8])
@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({}, refuses(500)),
        ({}, Reply({}, fails="close", after=1)),
        (STREAM, refuses(500)),
    ],
)
def test_a_call_that_cannot_be_given_up_is_served_from_its_start(
    seeded: Market, engine: Upstream, monkeypatch: pytest.MonkeyPatch, unraised: list[str],
    fields: dict[str, Any], reply: Reply, places: int | None,
) -> None:  # fmt: skip
    fuse = Fuse(monkeypatch, Hooks, "resumed")

    async def story() -> None:
        async with gateway_on(seeded, core_type()) as gateway:
            caller = await _caller(gateway, [engine], places)
            engine.asked.clear()
            engine.script(reply)
            fuse.blown = True
            told = await gateway.told(caller.request(**fields))
            await gateway.quiet()
            assert fuse.times == 1
            assert told.startswith(b"HTTP/1.1 200 ")
            assert len(engine.asked) == 2
            assert _kept(gateway, caller) == NOTHING
            assert unraised

    _tell(story)


def test_a_stream_that_cannot_be_given_up_is_broken_off(
    seeded: Market, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second head inside of it would be taken for a part of the answer."""
    fuse = Fuse(monkeypatch, Hooks, "resumed")

    async def story() -> None:
        async with gateway_on(seeded, core_type()) as gateway:
            caller = await _caller(gateway, [engine])
            engine.script(lambda asked: Reply(events=usual(asked).events, fails="close", after=3))
            fuse.blown = True
            told = await gateway.told(caller.request(**STREAM))
            await gateway.quiet()
            assert fuse.times == 1
            assert told.count(b"HTTP/1.1") == 1
            assert _kept(gateway, caller) == NOTHING

    _tell(story)


def test_a_call_that_python_does_not_want_leaves_nothing_taken(
    seeded: Market, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = Fuse(monkeypatch, Hooks, "connection")

    async def story() -> None:
        async with gateway_on(seeded, core_type()) as gateway:
            caller = await _caller(gateway, [engine])
            engine.script(refuses(500))
            fuse.blown = True
            assert await gateway.told(caller.request()) == b""
            await gateway.quiet()
            assert fuse.times == 1
            assert _kept(gateway, caller) == NOTHING

    _tell(story)


@pytest.mark.parametrize("again", [False, True], ids=["before", "behind"])
def test_a_charge_that_cannot_be_handed_on_is_pythons(
    seeded: Market, engine: Upstream, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Whether it was answered before the hook raised, or nobody has it."""
    monkeypatch.setattr("marketplace.gateway.express.lane.is_sqlite", lambda _: False)
    times = 0
    charge = Hooks.charge

    def charges(self: Hooks, tx: str, *more: Any) -> None:
        nonlocal times
        if not blown:
            charge(self, tx, *more)
            return
        times += 1
        if again:
            more[-1].set_result(None)
            assert more[-1].done()
        raise Broken

    monkeypatch.setattr(Hooks, "charge", charges)
    blown = False

    async def story() -> None:
        nonlocal blown
        async with gateway_on(seeded, core_type()) as gateway:
            caller = await _caller(gateway, [engine])
            blown = True
            told = await gateway.told(caller.request())
            await gateway.quiet()
            assert told.startswith(b"HTTP/1.1 200 ")
            assert times == 1
            assert _kept(gateway, caller) == NOTHING

    _tell(story)


@pytest.mark.parametrize(
    ("of", "name", "engines_", "places", "served"),
    [
        (Hooks, "choose", 2, None, False),
        (Hooks, "seen", 1, None, True),
        (FairGate, "enter_now", 1, 8, False),
        (FairGate, "leave", 1, 8, True),
        (Router, "ended", 2, None, True),
        (Router, "answered", 2, None, True),
    ],
)
def test_whoever_is_asked_may_raise(
    seeded: Market, engines: list[Upstream], monkeypatch: pytest.MonkeyPatch,
    of: Any, name: str, engines_: int, places: int | None, served: bool,
) -> None:  # fmt: skip
    fuse = Fuse(monkeypatch, of, name, after=name != "enter_now")

    async def story() -> None:
        async with gateway_on(seeded, core_type(), log="json") as gateway:
            caller = await _caller(gateway, engines[:engines_], places)
            fuse.blown = True
            told = await gateway.told(caller.request(**STREAM))
            fuse.blown = False
            await gateway.quiet()
            assert fuse.times == 1
            assert told.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert bool(_taken(gateway)) == served
            if name == "choose":  # nobody knows what it has chosen
                gateway.hot.router.abandoned(fuse.returned)
            assert _kept(gateway, caller) == NOTHING

    _tell(story)


# The core's end.


def _close(gateway: Gateway) -> None:
    """Close the core as if the worker had died of something else."""
    express, gateway.express = gateway.express, None
    assert express is not None
    if express._timer is not None:
        express._timer.cancel()
    asyncio.get_running_loop().remove_reader(express._fileno)
    express._listener.close()
    express._core.close()


@pytest.mark.parametrize("places", [None, 8])
@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({}, Reply({}, waits=True)),
        (STREAM, lambda asked: Reply(events=usual(asked).events, waits=True, after=3)),
    ],
)
def test_a_core_may_be_closed_in_the_middle_of_calls(
    seeded: Market, engines: list[Upstream], fields: dict[str, Any], reply: Any,
    ways: int, places: int | None,
) -> None:  # fmt: skip
    async def story() -> None:
        async with gateway_on(seeded, core_type()) as gateway:
            caller = await _caller(gateway, engines[:ways], places)
            for engine in engines[:ways]:
                engine.script(reply)
                engine.asked.clear()
            asked = asyncio.ensure_future(gateway.told(caller.request(**fields)))
            while not any(engine.asked for engine in engines):
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert gateway.express is not None
            assert gateway.express.running == 1
            _close(gateway)
            assert b"[DONE]" not in await asked
            assert _kept(gateway, caller) == NOTHING
            for engine in engines:
                engine.go()

    _tell(story)


def test_a_core_may_be_closed_while_python_books_a_charge(
    seeded: Market, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.gateway.express.lane.is_sqlite", lambda _: False)
    waiting: list[Any] = []
    charge = Hooks.charge

    def charges(self: Hooks, tx: str, *more: Any) -> None:
        if blown:
            waiting.append(more[-1])
        else:
            charge(self, tx, *more)

    monkeypatch.setattr(Hooks, "charge", charges)
    blown = False

    async def story() -> None:
        nonlocal blown
        async with gateway_on(seeded, core_type()) as gateway:
            caller = await _caller(gateway, [engine])
            blown = True
            asked = asyncio.ensure_future(gateway.told(caller.request()))
            while not waiting:
                await asyncio.sleep(0.005)
            assert not waiting[0].done()
            _close(gateway)
            assert await asked == b""
            assert waiting[0].done()
            waiting[0].set_result(None)
            waiting[0].set_exception(Broken())
            assert _kept(gateway, caller) == NOTHING

    _tell(story)


def test_a_core_may_be_closed_while_it_books_a_charge(seeded: Market, engine: Upstream) -> None:
    """It waits for its own writer, and that for its turn: the interpreter goes on meanwhile."""
    from marketplace.gateway.express._core import Turn

    async def story() -> None:
        async with gateway_on(seeded, core_type()) as gateway:
            caller = await _caller(gateway, [engine])
            turn = Turn()
            turn.__enter__()
            engine.asked.clear()
            asked = asyncio.ensure_future(gateway.told(caller.request()))
            while not engine.asked:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            given = threading.Timer(0.2, turn.__exit__, (None, None, None))
            given.start()
            _close(gateway)
            given.join()
            assert await asked == b""
            assert _kept(gateway, caller) == NOTHING

    _tell(story)


class _Side:
    """Hooks and a protocol, for a core of its own."""

    idle = False

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def connection(self, transport: Any) -> _Side:
        return self

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def connection_lost(self, error: object) -> None:
        self.heard.append(error)


def test_a_core_that_is_dropped_on_the_way_of_an_error_does_not_touch_it(
    unraised: list[str],
) -> None:
    """It calls Python at its end, which must not find that error, and not lose it."""
    core_of, side = core_type(), _Side()
    assert core_of is not None
    client, ours = socket.socketpair()
    with client:
        core = core_of(side, echo=True, body_limit=1, connect_s=1.0, silence_s=1.0)  # type: ignore[call-arg]
        core.adopt(ours.detach(), b"GET /")
        core.poll()
        cores = [core]
        del core
        with pytest.raises(TypeError):
            _ = cores.pop() + 1  # type: ignore[operator]
    assert side.heard == [b"GET /", None]
    assert not unraised


def test_a_call_may_ask_for_what_has_been_booked(
    seeded: Market, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several charges are answered at once, and what comes of one of them closes the lane."""
    from marketplace.gateway.express._core import Turn

    async def story() -> None:
        async with gateway_on(seeded, core_type(), log="json") as gateway:
            express = gateway.express
            assert express is not None
            caller = await _caller(gateway, [engine])
            turn = Turn()
            turn.__enter__()
            engine.asked.clear()
            asked = [asyncio.ensure_future(gateway.told(caller.request())) for _ in range(5)]
            while len(engine.asked) < 5:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert express.running == 5
            nested.append(lambda: express._core.lane("close"))
            turn.__exit__(None, None, None)
            told = await asyncio.gather(*asked)
            assert all(each.startswith(b"HTTP/1.1 200 ") for each in told)
            assert not nested
            await gateway.quiet()
            assert _kept(gateway, caller) == NOTHING

    nested: list[Callable[[], Any]] = []
    seen = Hooks.seen

    def sees(self: Hooks, *more: Any) -> None:
        if nested:
            nested.pop()()
        seen(self, *more)

    monkeypatch.setattr(Hooks, "seen", sees)
    _tell(story)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors")  # noqa: PTH112
def test_who_comes_while_there_are_no_descriptors_is_served_later(
    seeded: Market, engine: Upstream
) -> None:
    """Also where nobody else is connected, whose connection would keep the core awake."""

    async def story() -> None:
        async with gateway_on(seeded, core_type()) as gateway:
            caller = await _caller(gateway, [engine])
            assert gateway.express is not None
            while gateway.express.connections or gateway.express._timer is not None:
                await asyncio.sleep(0.01)
            loop = asyncio.get_running_loop()
            with socket.socket() as client:
                client.setblocking(False)
                with _no_descriptors():
                    await loop.sock_connect(client, ("127.0.0.1", gateway.express_port))
                    await asyncio.sleep(0.1)
                    assert not gateway.express.connections
                await loop.sock_sendall(client, caller.request())
                told = await asyncio.wait_for(loop.sock_recv(client, 10_000), 10)
                assert told.startswith(b"HTTP/1.1 200 ")
            await gateway.quiet()

    _tell(story)


@contextlib.contextmanager
def _no_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    fillers = [os.dup(0)]
    while fillers[-1] <= highest:
        fillers.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for filler in fillers:
            os.close(filler)
