"""What affinity is for: a simulated hour of conversations on engines with prefix caches.

Eight engines, each with a cache of the latest conversations (least recently used goes). A turn takes as
long as its prompt must be read (a hit skips what the engine has seen) plus its output. Routers see only
what the gateway would show them.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from support.routing import HandClock, endpoints

from serving.routing import Candidate, Choice, Router, affinity_key

ENGINES = endpoints(*(f"engine_{n}" for n in range(8)))
CONVERSATIONS = 600
TURNS = 6
CACHED = 80
READ_S = 0.8
WRITE_S = 1.2

Pick = Callable[[int], Choice[Candidate]]


@dataclass
class Outcome:
    """What came of a simulation."""

    turns: int = 0
    hits: int = 0
    most_in_flight: int = 0
    answered: dict[str, int] = field(default_factory=dict)

    @property
    def hit_share(self) -> float:
        """Of the turns that could have hit: all but the first of each conversation."""
        return self.hits / (self.turns - CONVERSATIONS)

    @property
    def spread(self) -> float:
        """How much more than the mean the busiest engine answered."""
        return max(self.answered.values()) * len(ENGINES) / self.turns


def _simulate(router: Router, clock: HandClock, pick: Pick, seed: int) -> Outcome:
    chance = random.Random(seed)
    caches: dict[str, OrderedDict[int, None]] = {e.id: OrderedDict() for e in ENGINES}
    outcome = Outcome(answered={e.id: 0 for e in ENGINES})
    in_flight = dict.fromkeys(caches, 0)
    # (when, order, conversation, turn, the running choice or None where the turn begins)
    events: list[tuple[float, int, int, int, Choice[Candidate] | None]] = []
    for conversation in range(CONVERSATIONS):
        begins_s = clock.now_s + chance.uniform(0, 120)
        heapq.heappush(events, (begins_s, conversation, conversation, 0, None))
    order = CONVERSATIONS
    while events:
        clock.now_s, _, conversation, turn, running = heapq.heappop(events)
        order += 1
        if running is None:
            choice = pick(conversation)
            engine = choice.candidate.id
            cache = caches[engine]
            hit = conversation in cache
            cache[conversation] = None
            cache.move_to_end(conversation)
            if len(cache) > CACHED:
                cache.popitem(last=False)
            outcome.turns += 1
            outcome.hits += hit
            outcome.answered[engine] += 1
            in_flight[engine] += 1
            outcome.most_in_flight = max(outcome.most_in_flight, in_flight[engine])
            ends_s = clock.now_s + (0 if hit else READ_S) + chance.expovariate(1 / WRITE_S)
            heapq.heappush(events, (ends_s, order, conversation, turn, choice))
        else:
            router.ended(running, 50)
            in_flight[running.candidate.id] -= 1
            if turn + 1 < TURNS:
                again_s = clock.now_s + chance.expovariate(1 / 5)
                heapq.heappush(events, (again_s, order, conversation, turn + 1, None))
    return outcome


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_affinity_hits_the_caches_and_keeps_the_load_even(seed: int) -> None:
    def body(conversation: int) -> bytes:
        return b'{"messages":[{"role":"user","content":"question %d"}]}' % conversation

    outcomes: dict[str, Outcome] = {}
    for name in ("affinity", "least_loaded", "random"):
        clock = HandClock()
        router = Router(clock, chance=random.Random(seed))
        dice = random.Random(seed)

        def pick(
            conversation: int, name: str = name, router: Router = router, dice: random.Random = dice
        ) -> Choice[Candidate]:
            if name == "affinity":
                return router.choose(ENGINES, affinity=affinity_key("org", body(conversation)))
            return router.choose(ENGINES if name == "least_loaded" else [dice.choice(ENGINES)])

        outcomes[name] = _simulate(router, clock, pick, seed)
    affinity, chance = outcomes["affinity"], outcomes["random"]
    assert affinity.hit_share > 0.7
    assert affinity.hit_share > 2 * chance.hit_share
    assert affinity.spread < 1.25
    assert affinity.most_in_flight <= chance.most_in_flight
    assert outcomes["least_loaded"].most_in_flight <= chance.most_in_flight
