"""The fair gate: who goes next, who is refused at the door, and that no place is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from support.virtual_loop import VirtualLoop

from catalog.ground.errors import RateLimited
from marketplace.gateway import fairness as module
from marketplace.gateway.fairness import FairGate, Place

Go = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def waiting(
    gate: FairGate, tenant: str, *, paid: bool = False, tokens: int = 10
) -> asyncio.Task[Place]:
    return asyncio.ensure_future(gate.enter(tenant, paid=paid, input_tokens=tokens))


async def settle() -> None:
    """Let everything that can go on, go on."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_without_a_queue_nobody_waits(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(2, 10, 5, loop.now_us)
        first = await gate.enter("a", paid=False, input_tokens=10)
        await gate.enter("a", paid=True, input_tokens=10)
        assert (gate.running, gate.depth, gate.admitted, gate.waited) == (2, 0, 2, 0)
        gate.leave(first, 5)
        gate.leave(first, 5)
        assert gate.running == 1

    loop.run_until_complete(story())


def test_the_tenant_who_was_served_least_goes_next(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 10, 1000, loop.now_us)
        place = await gate.enter("greedy", paid=False, input_tokens=10)
        order: list[str] = []

        async def call(tenant: str, tokens: int) -> None:
            place = await gate.enter(tenant, paid=False, input_tokens=tokens)
            order.append(tenant)
            await asyncio.sleep(1)
            gate.leave(place, 0)

        tasks = [asyncio.ensure_future(call("greedy", 100)) for _ in range(4)]
        await settle()
        tasks += [asyncio.ensure_future(call("small", 30)) for _ in range(4)]
        await settle()
        gate.leave(place, 0)
        await asyncio.gather(*tasks)
        assert order == [
            *("greedy", "small", "small", "small", "small"),
            *("greedy", "greedy", "greedy"),
        ]
        assert (gate.running, gate.depth, gate.waited) == (0, 0, 8)

    loop.run_until_complete(story())


def test_what_was_put_out_counts_twice(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(2, 10, 1000, loop.now_us)
        long = await gate.enter("long", paid=False, input_tokens=10)
        short = await gate.enter("short", paid=False, input_tokens=10)
        tasks = [waiting(gate, "long"), waiting(gate, "short"), waiting(gate, "long")]
        await settle()
        before = gate.counters(paid=False)
        gate.leave(long, 100, input_tokens=7)
        assert gate.counters(paid=False)["long"] in (before["long"] - 3 + 200, before["long"] + 207)
        gate.leave(short, 1)
        await settle()
        assert tasks[1].done()
        for task in tasks[:2]:
            gate.leave(task.result())
        await settle()
        gate.leave(tasks[2].result())

    loop.run_until_complete(story())


def test_being_away_earns_nothing(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 100, 1000, loop.now_us)
        place = await gate.enter("steady", paid=False, input_tokens=1_000_000)
        tasks = [waiting(gate, "steady") for _ in range(2)]
        await settle()
        tasks += [waiting(gate, "back") for _ in range(2)]
        await settle()
        assert gate.counters(paid=False)["back"] == 1_000_000
        gate.leave(place)
        for task in (tasks[0], tasks[2], tasks[1], tasks[3]):
            await settle()
            gate.leave(task.result())

    loop.run_until_complete(story())


def test_what_was_served_while_places_were_free_is_no_debt(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 100, 1000, loop.now_us)
        for _ in range(1000):
            gate.leave(await gate.enter("old", paid=False, input_tokens=1000), 0)
        place = await gate.enter("new", paid=False, input_tokens=10)
        tasks = [waiting(gate, "new"), waiting(gate, "old")]
        await settle()
        counters = gate.counters(paid=False)
        assert 0 <= counters["new"] - counters["old"] <= 10
        gate.leave(place)
        for task in tasks:
            await settle()
            gate.leave(task.result())

    loop.run_until_complete(story())


def test_who_pays_goes_first(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 10, 1000, loop.now_us)
        place = await gate.enter("a", paid=True, input_tokens=10)
        free = waiting(gate, "a")
        await settle()
        paid = waiting(gate, "b", paid=True, tokens=10_000)
        await settle()
        gate.leave(place)
        await settle()
        assert paid.done()
        assert not free.done()
        gate.leave(paid.result())
        await settle()
        gate.leave(free.result())

    loop.run_until_complete(story())


def test_patience_ends_and_the_place_in_the_queue_is_free_again(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 1, 5, loop.now_us)
        place = await gate.enter("a", paid=False, input_tokens=10)
        with pytest.raises(RateLimited) as caught:
            await gate.enter("b", paid=False, input_tokens=10)
        assert caught.value.code == "server_busy"
        assert caught.value.rule == "limits.listing.patience"
        assert loop.now_us() == 5_000_000
        assert (gate.depth, gate.expired, gate.running) == (0, 1, 1)
        gate.leave(place)
        assert gate.running == 0

    loop.run_until_complete(story())


def test_a_full_queue_refuses_at_once_and_only_its_tenant(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 2, 1000, loop.now_us)
        place = await gate.enter("a", paid=False, input_tokens=10)
        tasks = [waiting(gate, "a"), waiting(gate, "a")]
        await settle()
        with pytest.raises(RateLimited) as caught:
            await gate.enter("a", paid=False, input_tokens=10)
        assert (caught.value.rule, caught.value.code) == ("limits.listing.queue", "server_busy")
        assert loop.now_us() == 0
        tasks.append(waiting(gate, "b"))
        await settle()
        assert (gate.depth, gate.refused) == (3, 1)
        gate.leave(place)
        for _ in tasks:
            await settle()
            gate.leave(next(t.result() for t in tasks if t.done() and t.result().taken))

    loop.run_until_complete(story())


def test_the_whole_queue_is_bounded(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 10, 1000, loop.now_us, most_waiting=3)
        place = await gate.enter("a", paid=False, input_tokens=10)
        tasks = [waiting(gate, f"t{n}") for n in range(4)]
        await settle()
        assert gate.depth == 3
        assert isinstance(tasks[3].exception(), RateLimited)
        for task in tasks[:3]:
            task.cancel()
        await settle()
        assert (gate.depth, gate.abandoned) == (0, 3)
        gate.leave(place)

    loop.run_until_complete(story())


def test_a_wait_that_would_be_too_long_is_refused_before_it_begins(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(2, 100, 10, loop.now_us)

        async def call(tenant: str) -> None:
            place = await gate.enter(tenant, paid=False, input_tokens=10)
            await asyncio.sleep(4)  # so the gate serves one call in two seconds
            gate.leave(place, 50)

        await asyncio.gather(*(call("a") for _ in range(4)))
        tasks = [asyncio.ensure_future(call("a")) for _ in range(10)]
        await settle()
        assert gate.estimate_s("a", paid=False) == pytest.approx(12)
        # Two run and five wait: the sixth would wait for 12 seconds, the five wait for at most 10.
        assert (gate.running, gate.depth, gate.refused) == (2, 5, 3)
        refused = next(t.exception() for t in tasks if t.done())
        assert isinstance(refused, RateLimited)
        assert refused.rule == "limits.listing.patience"
        assert refused.retry_after_s == pytest.approx(12)
        # Another tenant's turn comes after one call of the first tenant at most.
        assert gate.estimate_s("b", paid=False) == pytest.approx(4)
        assert gate.estimate_s("b", paid=True) == pytest.approx(2)
        await asyncio.gather(*tasks, return_exceptions=True)
        # Both calls end in the same instant, so the fifth would have to wait for a third round.
        assert (gate.running, gate.depth, gate.expired) == (0, 0, 1)

    loop.run_until_complete(story())


def test_leaving_the_queue_frees_it(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 10, 1000, loop.now_us)
        place = await gate.enter("a", paid=False, input_tokens=10)
        first, second = waiting(gate, "b"), waiting(gate, "b")
        await settle()
        first.cancel()
        gate.leave(place)  # before the cancelled task has run: it must not get the place
        await settle()
        assert first.cancelled()
        assert second.done()
        gate.leave(second.result())
        assert (gate.running, gate.depth, gate.abandoned) == (0, 0, 1)

    loop.run_until_complete(story())


def test_a_place_given_to_a_task_that_is_cancelled_goes_to_the_next(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 10, 1000, loop.now_us)
        place = await gate.enter("a", paid=False, input_tokens=10)
        first, second = waiting(gate, "b", tokens=500), waiting(gate, "b")
        await settle()
        counter = gate.counters(paid=False)["b"]
        gate.leave(place)  # the place is the first one's now, and its task has not run yet
        first.cancel()
        await settle()
        assert first.cancelled()
        assert second.done()
        assert second.result().account.counter == counter + 10
        gate.leave(second.result())
        assert gate.running == 0

    loop.run_until_complete(story())


def test_more_places_are_handed_out_at_once_and_fewer_as_calls_end(loop: VirtualLoop) -> None:
    async def story() -> None:
        gate = FairGate(1, 10, 1000, loop.now_us)
        places = [await gate.enter("a", paid=False, input_tokens=10)]
        tasks = [waiting(gate, "a") for _ in range(4)]
        await settle()
        gate.resize(3)
        await settle()
        assert (gate.running, gate.depth) == (3, 2)
        gate.resize(1)
        places += [task.result() for task in tasks[:2]]
        for place in places[:2]:
            gate.leave(place)
        await settle()
        assert (gate.running, gate.depth) == (1, 2)
        gate.leave(places[2])
        await settle()
        assert (gate.running, gate.depth) == (1, 1)
        gate.leave(tasks[2].result())
        await settle()
        gate.leave(tasks[3].result())

    loop.run_until_complete(story())


def test_tenants_who_are_level_with_the_others_are_forgotten(
    loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr(module, "_ACCOUNTS", 10)
        gate = FairGate(5, 10, 1000, loop.now_us)
        gate._free._most_accounts = 10
        for number in range(100):
            gate.leave(await gate.enter(f"t{number}", paid=False, input_tokens=10), 0)
        assert len(gate._free.accounts) <= 20

    loop.run_until_complete(story())


def test_one_greedy_and_twenty_modest_tenants_on_a_real_loop() -> None:
    async def story() -> list[str]:
        gate = FairGate(4, 1000, 60)
        done: list[str] = []

        async def call(tenant: str) -> None:
            place = await gate.enter(tenant, paid=False, input_tokens=100)
            for _ in range(3):
                await asyncio.sleep(0)
            done.append(tenant)
            gate.leave(place, 50)

        tasks = [asyncio.ensure_future(call("greedy")) for _ in range(500)]
        await asyncio.sleep(0)
        tasks += [asyncio.ensure_future(call(f"modest {n % 20}")) for n in range(60)]
        await asyncio.gather(*tasks)
        assert (gate.running, gate.depth, gate.admitted) == (0, 0, 560)
        return done

    done = asyncio.run(story())
    last = max(index for index, tenant in enumerate(done) if tenant != "greedy")
    # 60 modest calls, in the time of which the greedy one gets what one modest tenant gets, and what ran.
    assert last < 60 + 3 + 2 * 4
    assert len(done) == 560
