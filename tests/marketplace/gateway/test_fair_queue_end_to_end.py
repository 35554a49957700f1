"""A full engine: who calls hundreds of times at once keeps nobody waiting, and nothing is left over."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from support.market import Market, wait_until
from support.upstream import (
    Asked,
    Reply,
    Upstream,
    add_endpoint,
    change_endpoints,
    events_of,
    holds_of,
    usual,
)

from marketplace.prices.components import Components

# The queue is in the workers' memory, whatever the database is.
pytestmark = pytest.mark.parametrize("market", ["sqlite"], indirect=True)
PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=100)
PLACES, QUEUE = 2, 64


class Full:
    """A listing whose engine has two places and answers nobody before it is told to."""

    def __init__(self, market: Market, engine: Upstream) -> None:
        self.market = market
        self.engine = engine
        engine.answer = _waits
        self.slug = market.listing(PER_CALL, url=engine.url, model="m", context_length=100_000)
        change_endpoints(market, self.slug, max_concurrency=PLACES)
        self.tenants: dict[str, tuple[str, str]] = {}
        self.client: openai.AsyncOpenAI

    def run(self, story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a story in an event loop, with a client for its calls."""

        async def told() -> Any:
            async with openai.AsyncOpenAI(
                base_url=f"{self.market.url}/v1", api_key="nobody", max_retries=0
            ) as self.client:
                return await story()

        return asyncio.run(told())

    async def ask(self, tenant: str, suffix: str = "", **wish: Any) -> str:
        """Call once for a tenant; return 'served' or the error's code and rule. `wish` is the `provider`."""
        client = self.client.with_options(api_key=self.key(tenant))
        messages: Any = [{"role": "user", "content": tenant}]
        try:
            await client.chat.completions.create(
                model=self.slug + suffix,
                messages=messages,
                extra_body={"provider": wish} if wish else None,
            )
        except openai.RateLimitError as error:
            told = error.response.json()["error"]
            return f"{told['code']} {told['rule']}"
        return "served"

    def key(self, tenant: str) -> str:
        if tenant not in self.tenants:
            self.tenants[tenant] = self.market.organisation(voucher_u=1_000_000)
        return self.tenants[tenant][1]

    def order(self) -> list[str]:
        """Return whose call the engine got, in order."""
        return [asked.document["messages"][0]["content"] for asked in self.engine.asked]

    def waiting(self) -> int:
        """Return how many calls of the listing the gateway says are in its queue."""
        samples = self._samples("tokenmart_gateway_waiting")
        return sum(int(s.value) for s in samples if s.labels["listing"] == self.slug)

    def running(self) -> int:
        """Return how many requests the gateway says it has, those in the queue among them."""
        return sum(int(s.value) for s in self._samples("tokenmart_gateway_running"))

    def _samples(self, name: str) -> list[Sample]:
        with urllib.request.urlopen(f"{self.market.url}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return [s for f in families for s in f.samples if s.name == name]

    async def until_waiting(self, count: int) -> None:
        for _ in range(600):
            if await asyncio.to_thread(self.waiting) == count:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{self.waiting()} wait, not {count}")

    def nothing_is_held(self) -> bool:
        return not any(holds_of(self.market, org_id) for org_id, _ in self.tenants.values())


def _waits(asked: Asked) -> Reply:
    reply = usual(asked)
    reply.waits = True
    return reply


@pytest.fixture
def full(market: Market, engine: Upstream) -> Iterator[Full]:
    made = Full(market, engine)
    yield made
    engine.go()
    wait_until(made.nothing_is_held)


def test_a_greedy_tenant_waits_in_his_own_queue(full: Full) -> None:
    modest = [f"modest-{n}" for n in range(20)]
    for tenant in ("greedy", *modest):
        full.key(tenant)

    async def story() -> tuple[list[str], list[str]]:
        greedy = [asyncio.ensure_future(full.ask("greedy")) for _ in range(200)]
        await full.until_waiting(QUEUE)
        others = [asyncio.ensure_future(full.ask(tenant)) for tenant in modest for _ in range(2)]
        await full.until_waiting(QUEUE + len(others))
        full.engine.go()
        return await asyncio.gather(*greedy), await asyncio.gather(*others)

    greedy, others = full.run(story)
    assert others == ["served"] * 40
    assert Counter(greedy) == {
        "served": PLACES + QUEUE,
        "server_busy limits.listing.queue": 200 - PLACES - QUEUE,
    }
    order = full.order()
    assert order[:PLACES] == ["greedy"] * PLACES
    last = max(n for n, tenant in enumerate(order) if tenant != "greedy")
    # All are served alike while all wait: he has had his two, and about as many turns as each of them.
    assert order[: last + 1].count("greedy") <= PLACES + 4
    # Nobody has a second turn long before others have their first.
    first = [tenant for tenant in order[PLACES : PLACES + 24] if tenant != "greedy"]
    assert len(set(first)) >= 18
    assert full.engine.most_running <= PLACES
    org_id, _ = full.tenants["greedy"]
    assert len(events_of(full.market, org_id)) == PLACES + QUEUE


def test_who_pays_goes_before_free_calls(full: Full) -> None:
    for tenant in ("free", "paying"):
        full.key(tenant)

    async def story() -> tuple[list[str], list[str]]:
        free = [asyncio.ensure_future(full.ask("free", ":free")) for _ in range(30)]
        await full.until_waiting(30 - PLACES)
        paying = [asyncio.ensure_future(full.ask("paying")) for _ in range(5)]
        await full.until_waiting(30 - PLACES + 5)
        full.engine.go()
        return await asyncio.gather(*free), await asyncio.gather(*paying)

    free, paying = full.run(story)
    assert (set(free), set(paying)) == ({"served"}, {"served"})
    assert full.order()[PLACES : PLACES + 5] == ["paying"] * 5
    events = events_of(full.market, full.tenants["free"][0])
    assert {(event.free_u, event.voucher_u) for event in events} == {(100, 0)}


def test_who_leaves_the_queue_frees_his_place(full: Full) -> None:
    for tenant in ("stays", "leaves"):
        full.key(tenant)

    async def story() -> list[str]:
        first = [asyncio.ensure_future(full.ask("stays")) for _ in range(PLACES)]
        while len(full.engine.asked) < PLACES:
            await asyncio.sleep(0.01)
        leaving = [asyncio.ensure_future(full.ask("leaves")) for _ in range(QUEUE)]
        await full.until_waiting(QUEUE)
        assert "server_busy" in await full.ask("leaves")
        for task in leaving[:-1]:
            task.cancel()
        await asyncio.gather(*leaving[:-1], return_exceptions=True)
        await full.until_waiting(1)
        more = [asyncio.ensure_future(full.ask("leaves")) for _ in range(3)]
        await full.until_waiting(4)
        full.engine.go()
        return await asyncio.gather(*first, leaving[-1], *more)

    assert full.run(story) == ["served"] * (PLACES + 4)
    assert full.order() == ["stays"] * PLACES + ["leaves"] * 4
    wait_until(full.nothing_is_held)
    assert len(events_of(full.market, full.tenants["leaves"][0])) == 4


def test_who_has_left_before_the_queue_does_not_wait_in_it(full: Full) -> None:
    """The engine is asked how many tokens a long prompt has; until it says so, the client has gone."""
    full.key("t")
    told = threading.Event()

    async def until_running(count: int) -> None:
        for _ in range(200):
            if await asyncio.to_thread(full.running) == count:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{full.running()} run, not {count}")

    async def story() -> list[str]:
        first = [asyncio.ensure_future(full.ask("t")) for _ in range(PLACES)]
        while len(full.engine.asked) < PLACES:
            await asyncio.sleep(0.01)
        full.engine._loop.call_soon_threadsafe(told.wait)
        client = full.client.with_options(api_key=full.key("t"))
        long: Any = [{"role": "user", "content": "x" * 100_000}]
        leaves = asyncio.ensure_future(
            client.chat.completions.create(model=full.slug, messages=long)
        )
        await until_running(PLACES + 1)
        leaves.cancel()
        told.set()
        await until_running(PLACES)
        full.engine.go()
        return await asyncio.gather(*first)

    assert full.run(story) == ["served"] * PLACES
    assert len(full.engine.asked) == PLACES


def test_a_place_comes_back_whatever_becomes_of_the_call(full: Full) -> None:
    """Failures, refusals and clients who leave in the middle: afterwards the engine has both places again."""
    full.key("t")

    def fails(asked: Asked) -> Reply:
        return Reply({"error": {"message": "no"}}, status=400)

    async def story() -> list[str]:
        full.engine.script(fails, fails, fails)
        failed = await asyncio.gather(*(full.ask("t") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(error, openai.BadRequestError) for error in failed)
        gone = [asyncio.ensure_future(full.ask("t")) for _ in range(PLACES)]
        while len(full.engine.asked) < 3 + PLACES:
            await asyncio.sleep(0.01)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        while full.engine.aborted < PLACES:
            await asyncio.sleep(0.01)
        again = [asyncio.ensure_future(full.ask("t")) for _ in range(PLACES)]
        while len(full.engine.asked) < 3 + 2 * PLACES:
            await asyncio.sleep(0.01)
        full.engine.go()
        return await asyncio.gather(*again)

    assert full.run(story) == ["served"] * PLACES
    wait_until(full.nothing_is_held)
    events = events_of(full.market, full.tenants["t"][0])
    assert Counter(event.outcome for event in events) == {"cancelled": PLACES, "ok": PLACES}


def test_an_engine_that_takes_no_calls_has_no_say_in_the_queue(
    full: Full, engines: list[Upstream]
) -> None:
    """One of weight 0 and without a bound beside it: the other is as full as before."""
    add_endpoint(full.market, full.slug, engines[1], weight=0)
    full.key("t")

    async def story() -> list[str]:
        asking = [asyncio.ensure_future(full.ask("t")) for _ in range(10)]
        await full.until_waiting(10 - PLACES)
        full.engine.go()
        return await asyncio.gather(*asking)

    assert full.run(story) == ["served"] * 10
    assert engines[1].asked == []
    assert json.loads(events_of(full.market, full.tenants["t"][0])[0].route)["why"] == "only"


@pytest.fixture
def two(full: Full, engines: list[Upstream]) -> Iterator[Full]:
    """The same listing with two providers, of one place each."""
    change_endpoints(full.market, full.slug, max_concurrency=1, provider="acme")
    engines[1].answer = _waits
    add_endpoint(full.market, full.slug, engines[1], max_concurrency=1, provider="beta")
    yield full
    engines[1].go()


def test_who_wishes_for_a_provider_that_is_full_waits_for_it(
    two: Full, engines: list[Upstream]
) -> None:
    """The other provider's place is not his, and whoever wants that one does not wait behind him."""
    for tenant in ("first", "picky", "other", "leaves"):
        two.key(tenant)
    acme, beta = engines[0], engines[1]

    async def story() -> list[str]:
        first = asyncio.ensure_future(two.ask("first", only=["acme"]))
        while not acme.asked:
            await asyncio.sleep(0.01)
        picky = [asyncio.ensure_future(two.ask("picky", only=["acme"])) for _ in range(3)]
        strict = asyncio.ensure_future(two.ask("picky", order=["acme"], allow_fallbacks=False))
        leaves = asyncio.ensure_future(two.ask("leaves", only=["acme"]))
        await two.until_waiting(5)
        other = asyncio.ensure_future(two.ask("other"))
        while not beta.asked:
            await asyncio.sleep(0.01)
        plain = asyncio.ensure_future(two.ask("other"))
        await two.until_waiting(6)
        beta.go()
        assert await asyncio.gather(other, plain) == ["served"] * 2
        await two.until_waiting(5)
        leaves.cancel()
        await two.until_waiting(4)
        acme.go()
        return await asyncio.gather(first, *picky, strict)

    assert two.run(story) == ["served"] * 5
    assert two.order() == ["first"] + ["picky"] * 4
    assert [asked.document["messages"][0]["content"] for asked in beta.asked] == ["other"] * 2
    assert acme.most_running == beta.most_running == 1
    wait_until(two.nothing_is_held)
    assert len(events_of(two.market, two.tenants["picky"][0])) == 4


def test_a_queue_for_one_provider_is_bounded_like_any(two: Full, engines: list[Upstream]) -> None:
    two.key("t")

    async def story() -> list[str]:
        first = asyncio.ensure_future(two.ask("t", only=["acme"]))
        while not engines[0].asked:
            await asyncio.sleep(0.01)
        waiting = [asyncio.ensure_future(two.ask("t", only=["acme"])) for _ in range(QUEUE)]
        await two.until_waiting(QUEUE)
        assert await two.ask("t", ignore=["beta"]) == "server_busy limits.listing.queue"
        engines[0].go()
        return await asyncio.gather(first, *waiting)

    assert two.run(story) == ["served"] * (QUEUE + 1)
    assert engines[1].asked == []
    assert engines[0].most_running == 1


def test_who_finds_one_engine_resting_waits_for_the_other(
    two: Full, engines: list[Upstream]
) -> None:
    for tenant in ("holds", "a", "b"):
        two.key(tenant)
    acme, beta = engines[0], engines[1]

    async def story() -> list[str]:
        holds = asyncio.ensure_future(two.ask("holds", only=["acme"]))
        while not acme.asked:
            await asyncio.sleep(0.01)
        beta.script(Reply({"error": {"message": "no"}}, status=429, headers={"retry-after": "30"}))
        client = two.client.with_options(api_key=two.key("a"))
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(
                model=two.slug, messages=[], extra_body={"provider": {"only": ["beta"]}}
            )
        waits = asyncio.ensure_future(two.ask("b"))
        await two.until_waiting(1)
        acme.go()
        return await asyncio.gather(holds, waits)

    assert two.run(story) == ["served"] * 2
    assert two.order() == ["holds", "b"]


def test_a_full_provider_is_waited_for_beside_one_that_takes_any_number(
    two: Full, engines: list[Upstream]
) -> None:
    add_endpoint(two.market, two.slug, engines[2], provider="gamma")
    for tenant in ("first", "picky", "other"):
        two.key(tenant)

    async def story() -> list[str]:
        first = asyncio.ensure_future(two.ask("first", only=["acme"]))
        while not engines[0].asked:
            await asyncio.sleep(0.01)
        picky = [asyncio.ensure_future(two.ask("picky", only=["acme"])) for _ in range(3)]
        await two.until_waiting(3)
        others = [two.ask("other", only=["gamma"]) for _ in range(5)]
        assert await asyncio.gather(*others) == ["served"] * 5
        engines[0].go()
        return await asyncio.gather(first, *picky)

    assert two.run(story) == ["served"] * 4
    assert engines[0].most_running == 1


def test_who_waits_goes_to_the_engines_that_are_there_when_his_turn_comes(
    full: Full, engines: list[Upstream]
) -> None:
    """The old one is drained and a new one put beside it: whoever comes next lets the gateway know."""
    for tenant in ("waits", "next"):
        full.key(tenant)

    async def story() -> list[str]:
        waiting = [asyncio.ensure_future(full.ask("waits")) for _ in range(PLACES + 4)]
        await full.until_waiting(4)
        await asyncio.to_thread(change_endpoints, full.market, full.slug, state="draining")
        await asyncio.to_thread(add_endpoint, full.market, full.slug, engines[1])
        following = []
        for _ in range(50):
            following.append(asyncio.ensure_future(full.ask("next")))
            await asyncio.sleep(0.1)
            if len(engines[1].asked) == 4 + len(following):
                break
        full.engine.go()
        return await asyncio.gather(*waiting, *following)

    assert set(full.run(story)) == {"served"}
    assert len(full.engine.asked) == PLACES
