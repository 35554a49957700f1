"""What the lane is taught, and when it has to forget it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from support.express_stand_in import Caller, Gateway, gateway_on, unchunked
from support.market import Market, environment_of
from support.upstream import Reply, Upstream, add_endpoint, change_endpoints, events_of, usual

from catalog.ground.clock import now_us
from marketplace.gateway.express.lane import core_type, is_wanted, ways_of
from marketplace.gateway.express.terms import Terms
from marketplace.gateway.lookup import Lookup
from marketplace.gateway.money import Call
from marketplace.gateway.options import Options
from marketplace.gateway.seen import decode
from marketplace.gateway.shapes import CHAT
from marketplace.members.keys import create_key, revoke_key
from marketplace.prices.components import Components

if TYPE_CHECKING:
    from marketplace.gateway.express._core import Core

PRICE = Components(input_u_per_m=2_000_000, output_u_per_m=9_000_000)
SERVED = f"{CHAT} 200"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A marketplace's database, with no gateway but the test's own. What is taught knows no database."""
    folder: Path = tmp_path_factory.mktemp("terms")
    url = f"sqlite:///{folder / 'tokenmart.db'}"
    market = Market(folder, url, environment_of(folder, url))
    made = market.run("init")
    assert made.returncode == 0, made.stderr
    yield market
    assert market.problems() == []


@pytest.fixture
def core() -> type[Core]:
    found = core_type()
    if found is None:
        pytest.skip("the compiled core has not been built")
    return found


def caller(market: Market, url: str, **columns: Any) -> Caller:
    """Return somebody with money, and a listing whose engine is at `url`."""
    slug = market.listing(PRICE, url=url, model="m", context_length=100_000)
    if columns:
        change_endpoints(market, slug, **columns)
    return Caller(*market.organisation(10**9), slug)


def taught(
    market: Market, who: Caller, change: Callable[[Gateway, Call], None] | None = None
) -> tuple[Terms, ...] | None:
    """Serve one call of theirs; return what the lane would be taught of it."""
    found: list[tuple[Terms, ...] | None] = []

    async def story() -> None:
        async with gateway_on(market) as gateway:

            def learn(secret: str, name: str, call: Call) -> None:
                if change is not None:
                    change(gateway, call)
                found.append(ways_of(gateway.hot, secret, name, call))

            gateway.hot.learn = learn
            told = await gateway.told(who.request())
            assert told.startswith(b"HTTP/1.1 200"), told
            await gateway.quiet()

    asyncio.run(story())
    (ways,) = found
    return ways


def test_a_plain_call_makes_terms(seeded: Market, engine: Upstream) -> None:
    who = caller(seeded, engine.url)
    ways = taught(seeded, who)
    assert ways is not None
    (terms,) = ways
    assert terms.address == ("127.0.0.1", engine.port)
    assert terms.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:")
    assert terms.head.endswith(b"\r\n")
    assert terms.key.org_id == who.org_id
    assert terms.until_us == min(terms.record.until_us, terms.payer.good_until_us)
    assert [quota.who for quota in terms.quotas] == ["key"]


def test_terms_end_with_the_first_of_their_records(seeded: Market, engine: Upstream) -> None:
    who = caller(seeded, engine.url)
    ends_us = now_us() + 60_000_000
    with seeded._database() as database, database.session() as session:
        _, secret = create_key(
            session, who.org_id, "ends", now_us(), daily_u=10**9, expires_at_us=ends_us
        )
    ways = taught(seeded, replace(who, key=secret))
    assert ways is not None
    assert [terms.until_us for terms in ways] == [ends_us]
    assert len(ways[0].caps.caps) == 1


@pytest.mark.parametrize("name", ["localhost", "127.1"])
def test_an_engine_with_a_name_is_where_it_was_reached(
    seeded: Market, engine: Upstream, name: str
) -> None:
    ways = taught(seeded, caller(seeded, f"http://{name}:{engine.port}"))
    assert ways is not None
    assert ways[0].address == ("127.0.0.1", engine.port)
    assert ways[0].until_us <= now_us() + 30_000_000  # names come to stand for others


def test_several_engines_have_terms_each(seeded: Market, engines: list[Upstream]) -> None:
    who = caller(seeded, engines[0].url)
    add_endpoint(seeded, who.slug, engines[1], max_concurrency=4)
    ways = taught(seeded, who)
    assert ways is not None
    assert {terms.address[1] for terms in ways} == {engines[0].port, engines[1].port}
    assert len({id(terms.record) for terms in ways}) == 1


def test_an_engine_that_says_what_it_supports_makes_none(seeded: Market, engine: Upstream) -> None:
    assert taught(seeded, caller(seeded, engine.url, supports='["tools"]')) == ()


def test_a_key_for_some_networks_makes_none(seeded: Market, engine: Upstream) -> None:
    who = caller(seeded, engine.url)
    with seeded._database() as database, database.session() as session:
        _, secret = create_key(session, who.org_id, "here", now_us(), cidrs=["127.0.0.0/8"])
    assert taught(seeded, replace(who, key=secret)) == ()


def test_what_has_changed_while_a_call_ran_makes_none(seeded: Market, engine: Upstream) -> None:
    who = caller(seeded, engine.url)

    def news(gateway: Gateway, _: Call) -> None:
        gateway.hot.directory.notice({"vouchers": 999})

    assert taught(seeded, who, news) == ()


def test_the_lane_is_left_out_where_calls_are_traced() -> None:
    options = Options("sqlite:///x", "lane", cast(Any, None))
    assert is_wanted(options)
    assert is_wanted(msgspec.structs.replace(options, log="json"))
    for change in ({"gateway_express": "off"}, {"trace_ratio": 0.01}):
        assert not is_wanted(msgspec.structs.replace(options, **cast(Any, change)))


Story = Callable[[Gateway, Caller], Awaitable[None]]


def in_the_lane(market: Market, engine: Upstream, core: type[Core], story: Story) -> None:
    """Tell a story of a caller whose calls are compiled code's."""

    async def tell() -> None:
        async with gateway_on(market, core) as gateway:
            who = await asyncio.to_thread(caller, market, engine.url)
            await gateway.busy(who)
            gateway.lane = True
            assert await takes(gateway, who)
            await story(gateway, who)

    asyncio.run(tell())


async def takes(gateway: Gateway, who: Caller, status: int = 200) -> bool:
    """Make a call; return whether compiled code has answered it."""
    assert gateway.express is not None
    counted = gateway.hot.counters.requests
    gateway.express.count()
    before, promised = sum(counted.values()), gateway.hot.counters.promised
    told = await gateway.told(who.request())
    assert told.startswith(b"HTTP/1.1 %d " % status), told
    await gateway.quiet()
    mine = sum(counted.values()) == before
    gateway.express.count()
    assert sum(counted.values()) == before + 1
    assert gateway.hot.counters.promised == promised + (status == 200)
    return mine


def test_a_key_that_is_revoked_is_refused_with_the_next_news(
    seeded: Market, engine: Upstream, core: type[Core]
) -> None:
    async def story(gateway: Gateway, who: Caller) -> None:
        def revoke() -> dict[str, int]:
            with seeded._database() as database:
                with database.session() as session:
                    key = gateway.hot.directory.known_key(who.key)
                    assert key is not None
                    revoke_key(session, key.id, now_us())
                return Lookup(database).markers()

        gateway.hot.directory.notice(await asyncio.to_thread(revoke))
        assert not await takes(gateway, who, 401)

    in_the_lane(seeded, engine, core, story)


def test_news_are_forgotten_and_learnt_again(
    seeded: Market, engine: Upstream, core: type[Core]
) -> None:
    async def story(gateway: Gateway, who: Caller) -> None:
        directory, express = gateway.hot.directory, gateway.express
        assert express is not None
        versions = {"prices": 1}
        for news in (
            lambda: directory.notice(versions),
            lambda: express.forgets(None),
            lambda: express.shared(7),
        ):
            news()
            assert not await takes(gateway, who)  # Python's, which teaches it again
            assert await takes(gateway, who)
        directory.notice(versions)  # nothing new
        assert await takes(gateway, who)
        ladder = directory.known_ladder(who.org_id, who.slug)
        await directory.ladder(who.org_id, who.slug, fresher_than_us=now_us())
        assert directory.known_ladder(who.org_id, who.slug) is not ladder
        assert not await takes(gateway, who)
        express.forgets(object())  # nothing that it holds
        assert await takes(gateway, who)

    in_the_lane(seeded, engine, core, story)


def test_what_is_running_ends_and_nothing_more_is_taken_when_the_worker_leaves(
    seeded: Market, engine: Upstream, core: type[Core]
) -> None:
    async def story(gateway: Gateway, who: Caller) -> None:
        express = gateway.express
        assert express is not None
        engine.asked.clear()
        # The one has no usage, and will be given up to Python.
        engine.script(Reply({}, waits=True), lambda asked: replace(usual(asked), waits=True))
        running = []
        for count in (1, 2):
            running.append(asyncio.ensure_future(gateway.told(who.request())))
            while len(engine.asked) < count:
                await asyncio.sleep(0.005)
        assert express.running == express.connections == 2
        express.leave()
        gateway.door.close()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.to_thread(socket.create_connection, ("127.0.0.1", gateway.express_port))
        drained = asyncio.ensure_future(gateway.hot.drain(5, lambda: express.running))
        await asyncio.sleep(0.1)
        assert not drained.done()
        engine.go()
        for told in await asyncio.gather(*running):
            head, _ = unchunked(told)
            assert head[0] == "HTTP/1.1 200 OK"
            assert "connection: close" in head
        await drained
        assert express.running == 0

    in_the_lane(seeded, engine, core, story)


def test_a_slow_call_is_told_of(seeded: Market, engine: Upstream, core: type[Core]) -> None:
    """Compiled code tells the watcher what Python's calls tell it."""

    async def story() -> None:
        async with gateway_on(seeded, core, log="text", slow_request_s=0.000_001) as gateway:
            told: list[bytes] = []
            assert gateway.hot.watcher is not None
            gateway.hot.watcher._tell = told.append
            who = await asyncio.to_thread(caller, seeded, engine.url)
            await gateway.busy(who)
            gateway.hot.watcher.flush()
            told.clear()
            for lane in (False, True):
                gateway.lane = lane
                await gateway.told(who.request(stream=True))
                await gateway.quiet()
            gateway.hot.watcher.flush()
            python, compiled = decode(b"".join(told))
            same = [
                *("path", "status", "error", "org", "key", "listing", "why", "streamed", "outcome"),
                *("usage_source", "max_tokens", "input_tokens", "cached_tokens", "output_tokens"),
                *("cost_u", "waited_us"),
            ]
            assert [getattr(python, name) for name in same] == [
                getattr(compiled, name) for name in same
            ]
            for seen in (python, compiled):
                assert seen.started_at_us <= seen.held_at_us <= seen.answered_at_us
                assert seen.answered_at_us <= seen.settled_at_us <= seen.ended_at_us
                assert 0 < seen.first_token_us <= seen.ended_at_us - seen.started_at_us
                (attempt,) = seen.attempts
                assert attempt.url == engine.url
            ids = [event.id for event in events_of(seeded, who.org_id)]
            assert [python.generation, compiled.generation] == ids[-2:]

    asyncio.run(story())
