"""The fair gate under a random walk: callers come, wait, give up, are cancelled, end, places come and go.

Some callers are picky: only one of a few engines will do for them.
"""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.virtual_loop import VirtualLoop

from catalog.ground.errors import RateLimited
from marketplace.gateway.fairness import INPUT_WEIGHT, OUTPUT_WEIGHT, FairGate, Place

LONGEST_INPUT = 100
LONGEST_OUTPUT = 50
MOST_SLOTS = 4
QUEUE = 5
PATIENCE_S = 20
TENANTS = ("a", "b", "c", "d")
PICKY = ("p", "q")
PICKED = 2
"""Calls of picky callers that can run at once."""
BOUND = 2 * max(
    INPUT_WEIGHT * LONGEST_INPUT, OUTPUT_WEIGHT * MOST_SLOTS * (LONGEST_INPUT + LONGEST_OUTPUT)
)
"""Theorem 4.4 of the paper, M being the most tokens that can be in the places at once."""


class Pick:
    """What a picky caller needs besides a place."""

    def __init__(self, machine: GateMachine) -> None:
        self.machine = machine
        self.taken = False

    def take(self) -> bool:
        assert not self.taken
        self.taken = self.machine.picks > 0
        self.machine.picks -= self.taken
        return self.taken

    def give_back(self) -> None:
        self.machine.picks += self.taken
        self.taken = False


class GateMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.gate = FairGate(2, QUEUE, PATIENCE_S, self.loop.now_us)
        self.calls: list[tuple[asyncio.Task[Place], int, Pick | None]] = []
        self.places: list[tuple[Place, Pick | None]] = []
        self.picks = PICKED
        self.began = 0
        self.served = self.turned_away = self.left = 0

    def run_for(self, seconds: float) -> None:
        """Let time pass and everything that can go on, go on; then count who has been answered."""

        async def rest() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            await asyncio.sleep(seconds)
            for _ in range(3):
                await asyncio.sleep(0)

        self.loop.run_until_complete(rest())
        for task, since_us, pick in list(self.calls):
            if not task.done():
                assert self.loop.now_us() - since_us <= PATIENCE_S * 1_000_000
                continue
            self.calls.remove((task, since_us, pick))
            if task.cancelled():
                self.left += 1
            elif isinstance(task.exception(), RateLimited):
                self.turned_away += 1
            else:
                self.served += 1
                self.places.append((task.result(), pick))

    def begin(self, tenant: str, paid: bool, tokens: int) -> None:
        self.began += 1
        pick = Pick(self) if tenant in PICKY else None
        call = self.gate.enter(tenant, paid=paid, input_tokens=tokens, taker=pick)
        self.calls.append((self.loop.create_task(call), self.loop.now_us(), pick))

    def end(self, index: int, tokens: int) -> None:
        place, pick = self.places.pop(index % len(self.places))
        if pick is not None:
            pick.give_back()
        self.gate.leave(place, tokens)

    @rule(
        tenants=st.lists(st.sampled_from(TENANTS + PICKY), min_size=1, max_size=8),
        paid=st.booleans(),
        tokens=st.integers(1, LONGEST_INPUT),
    )
    def come(self, tenants: list[str], paid: bool, tokens: int) -> None:
        for tenant in tenants:
            self.begin(tenant, paid, tokens)
        self.run_for(0)

    @rule(
        ends=st.lists(
            st.tuples(st.integers(0, 9), st.integers(0, LONGEST_OUTPUT)), min_size=1, max_size=3
        )
    )
    def some_end(self, ends: list[tuple[int, int]]) -> None:
        for index, tokens in ends:
            if self.places:
                self.end(index, tokens)
        self.run_for(0)

    @rule(seconds=st.sampled_from([0.5, 3, 15]))
    def time_passes(self, seconds: float) -> None:
        self.run_for(seconds)

    @rule(index=st.integers(0, 99))
    def one_is_cancelled(self, index: int) -> None:
        if self.calls:
            self.calls[index % len(self.calls)][0].cancel()
            self.run_for(0)

    @rule(
        steps=st.lists(st.tuples(st.booleans(), st.integers(0, 99)), min_size=2, max_size=8),
        tokens=st.integers(0, LONGEST_OUTPUT),
    )
    def ends_and_cancellations_in_one_instant(
        self, steps: list[tuple[bool, int]], tokens: int
    ) -> None:
        for cancel, index in steps:
            if cancel and self.calls:
                self.calls[index % len(self.calls)][0].cancel()
            elif not cancel and self.places:
                self.end(index, tokens)
        self.run_for(0)

    @rule(slots=st.integers(1, MOST_SLOTS))
    def resize(self, slots: int) -> None:
        self.gate.resize(slots)
        self.run_for(0)

    @invariant()
    def every_place_is_held_by_somebody(self) -> None:
        assert self.gate.running == len(self.places) <= MOST_SLOTS
        assert self.gate.depth == len(self.calls)
        assert self.began == self.served + self.turned_away + self.left + len(self.calls)
        taken = [pick for _, pick in self.places if pick is not None]
        assert all(pick.taken for pick in taken)
        assert self.picks == PICKED - len(taken) >= 0

    @invariant()
    def nobody_waits_while_a_place_that_he_could_use_is_free(self) -> None:
        if self.gate.running < self.gate.slots:
            assert all(pick is not None for _, _, pick in self.calls)
            assert not self.calls or self.picks == 0

    @invariant()
    def queues_are_bounded(self) -> None:
        assert self.gate.depth <= 2 * QUEUE * len(TENANTS + PICKY)

    @invariant()
    def those_who_wait_stay_close(self) -> None:
        for paid in (True, False):
            waiting = self.gate.counters(paid=paid)
            counters = [count for tenant, count in waiting.items() if tenant in TENANTS]
            if counters:
                assert max(counters) - min(counters) <= BOUND

    def teardown(self) -> None:
        """Let everybody end: then all have been answered and every place is free."""
        self.run_for(0)
        while self.calls or self.places:
            while self.places:
                self.end(0, 1)
            self.run_for(0)
        assert (self.gate.running, self.gate.depth) == (0, 0)
        assert self.began == self.served + self.turned_away + self.left
        self.loop.close()


GateMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, database=None
)
TestGateMachine = GateMachine.TestCase
