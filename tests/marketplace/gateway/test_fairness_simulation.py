"""What fairness is worth: the same crowd before a fair gate and before a queue, in virtual time.

One tenant asks for 2,000 answers at once; twenty others come now and then. Every draw is seeded and time
is the virtual loop's, so both runs see the same calls at the same instants.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from support.virtual_loop import VirtualLoop

from marketplace.gateway.fairness import INPUT_WEIGHT, OUTPUT_WEIGHT, FairGate, Place

SLOTS = 64
GREEDY_CALLS = 2_000
MODEST = 20
LONGEST_INPUT = 800
LONGEST_OUTPUT = 400


@dataclass(frozen=True)
class Call:
    tenant: str
    at_s: float
    input_tokens: int
    output_tokens: int

    @property
    def lasts_s(self) -> float:
        """Prefill at 8,000 tokens a second, then 250 tokens a second."""
        return self.input_tokens / 8_000 + self.output_tokens / 250


def crowd(seed: int) -> list[Call]:
    chance = random.Random(seed)

    def call(tenant: str, at_s: float) -> Call:
        tokens = chance.randint(100, LONGEST_INPUT), chance.randint(50, LONGEST_OUTPUT)
        return Call(tenant, at_s, *tokens)

    calls = [call("greedy", 0.1) for _ in range(GREEDY_CALLS)]
    for number in range(MODEST):
        at_s = chance.uniform(0, 2)
        while at_s < 25:
            calls.append(call(f"modest {number}", at_s))
            at_s += chance.expovariate(1 / 2)
    return calls


Enter = Callable[[Call], Awaitable[Callable[[], None]]]


async def waits(calls: list[Call], enter: Enter) -> dict[str, list[float]]:
    """Play the calls; return how long each tenant's calls waited, in seconds."""
    loop = asyncio.get_running_loop()
    waited: dict[str, list[float]] = {}

    async def play(call: Call) -> None:
        await asyncio.sleep(call.at_s)
        began_s = loop.time()
        leave = await enter(call)
        waited.setdefault(call.tenant, []).append(loop.time() - began_s)
        await asyncio.sleep(call.lasts_s)
        leave()

    await asyncio.gather(*(play(call) for call in calls))
    return waited


def before_a_fair_gate(calls: list[Call]) -> dict[str, list[float]]:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        gate = FairGate(SLOTS, GREEDY_CALLS, 600, loop.now_us)

        async def enter(call: Call) -> Callable[[], None]:
            place = await gate.enter(call.tenant, paid=False, input_tokens=call.input_tokens)
            return lambda: gate.leave(place, call.output_tokens)

        waited = runner.run(waits(calls, enter))
        assert (gate.running, gate.depth) == (0, 0)
        assert gate.admitted == len(calls)
        return waited


def before_a_queue(calls: list[Call]) -> dict[str, list[float]]:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        places = asyncio.Semaphore(SLOTS)

        async def enter(call: Call) -> Callable[[], None]:
            await places.acquire()
            return places.release

        return runner.run(waits(calls, enter))


def p99(waited: dict[str, list[float]]) -> float:
    """Return the 99th percentile over the modest tenants' calls."""
    every = sorted(w for tenant, ws in waited.items() if tenant != "greedy" for w in ws)
    return every[int(len(every) * 0.99)]


@pytest.mark.parametrize("seed", [1, 2])
def test_modest_tenants_wait_a_fiftieth_of_what_a_queue_would_cost_them(seed: int) -> None:
    calls = crowd(seed)
    fair, queue = before_a_fair_gate(calls), before_a_queue(calls)
    assert p99(queue) > 20
    assert p99(fair) <= p99(queue) / 50
    # The greedy one pays for it, but little: the places are never idle.
    assert max(fair["greedy"]) <= 1.5 * max(queue["greedy"])


def test_two_who_both_keep_waiting_are_served_alike() -> None:
    """Theorem 4.4, over the whole run and at every admission, however different their calls are."""
    slots = 8
    bound = 2 * max(
        INPUT_WEIGHT * LONGEST_INPUT, OUTPUT_WEIGHT * slots * (LONGEST_INPUT + LONGEST_OUTPUT)
    )
    chance = random.Random(3)
    served = {"long": 0, "short": 0}
    widest = 0

    async def story(loop: VirtualLoop) -> None:
        gate = FairGate(slots, 10_000, 10_000, loop.now_us)

        async def call(tenant: str, input_tokens: int, output_tokens: int) -> None:
            nonlocal widest
            place: Place = await gate.enter(tenant, paid=False, input_tokens=input_tokens)
            await asyncio.sleep(0.1 + output_tokens / 250)
            gate.leave(place, output_tokens)
            served[tenant] += INPUT_WEIGHT * input_tokens + OUTPUT_WEIGHT * output_tokens
            if len(gate.counters(paid=False)) == 2:
                widest = max(widest, abs(served["long"] - served["short"]))

        calls = [
            call("long", LONGEST_INPUT, chance.randint(300, LONGEST_OUTPUT)) for _ in range(400)
        ]
        calls += [call("short", 20, chance.randint(1, 40)) for _ in range(4_000)]
        await asyncio.gather(*calls)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        runner.run(story(loop))
    assert min(served.values()) > 5 * bound
    assert 0 < widest <= bound
