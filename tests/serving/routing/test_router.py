"""Which endpoint a request gets, and the reason that is recorded."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.routing import HandClock, endpoint, endpoints

from catalog.ground.errors import BadRequest, Unavailable
from serving.routing import Candidate, Choice, Failure, Router, Wish, parse_wish
from serving.routing.wish import objection

WHY = re.compile(
    r"(retry:(connect|timeout|status|broken|busy|given_up)>)?"
    r"((order\[\d+\]|order:fallback|sort:(price|throughput|latency))>)?"
    r"(only|probe|least_loaded|affinity(:(cooling|probing|busy|full|overloaded))?)"
)


def _wish(**fields: Any) -> Wish:
    return parse_wish(json.dumps(fields).encode())


def _measured(router: Router, clock: HandClock, candidate: Candidate, seconds: float) -> None:
    choice = router.choose([candidate])
    clock.wait(seconds)
    router.answered(choice)
    router.ended(choice, 100)


def test_priorities_come_first_and_backups_wait(router: Router) -> None:
    main = endpoints("a", "b", priority=1, max_concurrency=2)
    backup = endpoint("z", priority=5)
    chosen = [router.choose([backup, *main]).candidate.id for _ in range(6)]
    assert sorted(chosen[:4]) == ["a", "a", "b", "b"]
    assert chosen[4:] == ["z", "z"]


def test_weights_decide_among_the_idle(router: Router) -> None:
    several = [endpoint("a"), endpoint("b", weight=3), endpoint("c", weight=6)]
    drawn: Counter[str] = Counter()
    for _ in range(10_000):
        choice = router.choose(several)
        drawn[choice.candidate.id] += 1
        router.ended(choice)
    # Four standard deviations of a binomial of 10,000 draws are 0.012 to 0.02.
    assert drawn["a"] / 10_000 == pytest.approx(0.1, abs=0.012)
    assert drawn["b"] / 10_000 == pytest.approx(0.3, abs=0.019)
    assert drawn["c"] / 10_000 == pytest.approx(0.6, abs=0.02)


def test_weights_decide_under_load(router: Router) -> None:
    several = [endpoint("a"), endpoint("b", weight=3), endpoint("c", weight=6)]
    drawn = Counter(router.choose(several).candidate.id for _ in range(1000))
    assert drawn == {"a": 100, "b": 300, "c": 600}


def test_without_a_weight_there_are_no_requests(router: Router) -> None:
    idle = endpoint("a", weight=0)
    assert {router.choose([idle, endpoint("b")]).candidate.id for _ in range(20)} == {"b"}
    with pytest.raises(Unavailable, match="weightless"):
        router.choose([idle])


def test_nobody_is_there() -> None:
    with pytest.raises(Unavailable) as caught:
        Router().choose([])
    assert caught.value.code == "no_healthy_endpoint"


def test_a_full_endpoint_is_passed_over(router: Router) -> None:
    a, b = endpoint("a", max_concurrency=1), endpoint("b")
    first = router.choose([a])
    assert router.choose([a, b]).candidate.id == "b"
    with pytest.raises(Unavailable, match="full"):
        router.choose([a])
    router.abandoned(first)
    assert router.choose([a]).candidate.id == "a"


def test_a_prompt_goes_home_and_the_reason_says_why_not(clock: HandClock) -> None:
    router = Router(clock, at_ease=1)
    several = endpoints("a", "b", "c", max_concurrency=5)
    key = 12345
    first = router.choose(several, affinity=key)
    home = first.candidate
    second = router.choose(several, affinity=key)
    assert (first.why, second.why) == ("affinity", "affinity:overloaded")
    router.abandoned(first)
    assert router.choose(several, affinity=key).candidate == home
    filling = [router.choose([home]) for _ in range(4)]
    away = router.choose(several, affinity=key)
    assert away.why == "affinity:full"
    assert away.candidate == second.candidate, "the next best home is the same each time"
    for choice in filling[:3]:
        router.failed(choice, "timeout")
    router.ended(away)
    router.ended(second)
    assert router.choose(several, affinity=key).why == "affinity:cooling"
    clock.wait(1)
    probe = router.choose(several, affinity=key + 1)
    assert (probe.candidate, probe.why) == (home, "probe")
    assert router.choose(several, affinity=key).why == "affinity:probing"
    router.failed(probe, "busy", 2)
    assert router.choose(several, affinity=key).why == "affinity:busy"
    clock.wait(2)
    assert router.choose(several, affinity=key).why == "affinity"


@pytest.mark.parametrize(
    ("asked", "id_", "why"),
    [
        ({"order": ["blue", "green"]}, "b", "order[0]>only"),
        ({"order": ["nobody", "green"]}, "g", "order[1]>only"),
        ({"order": ["nobody"]}, "r", "order:fallback>only"),
        ({"order": ["green"], "allow_fallbacks": False}, "g", "order[0]>only"),
        ({"only": ["green"]}, "g", "only"),
        ({"ignore": ["red"]}, "b", "only"),
        ({"sort": "price"}, "g", "sort:price>only"),
        ({"sort": {"by": "price"}}, "g", "sort:price>only"),
        ({"sort": "price", "ignore": ["green"]}, "b", "sort:price>only"),
        ({"sort": "price", "order": ["blue"]}, "b", "order[0]>only"),
        ({"max_price": {"prompt": 1.5, "completion": 2}}, "g", "only"),
        ({"quantizations": ["int4"]}, "g", "only"),
        ({"data_collection": "deny"}, "b", "only"),
        ({"zdr": True}, "b", "only"),
        ({"require_parameters": True}, "r", "only"),
    ],
)
def test_wishes_override_priorities(
    router: Router, asked: dict[str, Any], id_: str, why: str
) -> None:
    several = [
        endpoint("r", provider="red", priority=0),
        endpoint(
            "b",
            provider="blue",
            priority=1,
            data_collection="deny",
            zdr=True,
            input_u_per_m=2_000_000,
            output_u_per_m=2_000_000,
            supports=frozenset({"stop"}),
        ),
        endpoint(
            "g",
            provider="green",
            priority=2,
            quantization="int4",
            input_u_per_m=1_000_000,
            output_u_per_m=2_000_000,
            supports=frozenset({"seed"}),
        ),
    ]
    wanted = frozenset({"stop", "seed"})
    choice = router.choose(several, wish=_wish(**asked), wanted=wanted, affinity=1)
    assert (choice.candidate.id, choice.why) == (id_, why)


def test_the_fastest_is_measured_and_the_unknown_is_tried(router: Router, clock: HandClock) -> None:
    a, b, c = several = endpoints("a", "b", "c")
    _measured(router, clock, a, 2.0)
    _measured(router, clock, b, 0.5)
    for by in ("throughput", "latency"):
        assert router.choose(several, wish=_wish(sort=by)).candidate == c
    _measured(router, clock, c, 4.0)
    for by in ("throughput", "latency"):
        choice = router.choose(several, wish=_wish(sort=by))
        assert (choice.candidate, choice.why) == (b, f"sort:{by}>only")


def test_those_who_miss_a_preference_come_last(router: Router, clock: HandClock) -> None:
    quick, slow = endpoint("q", priority=9, max_concurrency=1), endpoint("s")
    for candidate, seconds in ((quick, 1.0), (slow, 5.0)):
        for _ in range(10):
            _measured(router, clock, candidate, seconds)
    for asked in (
        {"preferred_max_latency": 2},
        {"preferred_max_latency": {"p50": 2, "p99": 2}},
        {"preferred_min_throughput": 50},
        {"preferred_min_throughput": {"p90": 50}},
    ):
        first = router.choose([slow, quick], wish=_wish(**asked))
        assert first.candidate == quick
        assert router.choose([slow, quick], wish=_wish(**asked)).candidate == slow
        router.abandoned(first)


def test_without_fallbacks_only_the_first_choice_answers(router: Router) -> None:
    red, blue = endpoint("r", provider="red"), endpoint("b", provider="blue", priority=1)
    red2 = endpoint("r2", provider="red")
    alone = _wish(allow_fallbacks=False)
    first = router.choose([red, blue], wish=alone)
    assert first.candidate == red
    router.failed(first, "connect")
    with pytest.raises(Unavailable, match="allow_fallbacks: red was the choice"):
        router.choose([red, blue], wish=alone, tried=[first])
    again = router.choose([red, red2, blue], wish=alone, tried=[first])
    assert (again.candidate, again.why) == (red2, "retry:connect>only")
    for _ in range(2):
        router.failed(router.choose([red]), "connect")
    with pytest.raises(Unavailable, match="not the first choice"):
        router.choose([red, blue], wish=alone)
    assert router.choose([red, blue], wish=_wish()).candidate == blue
    # Others of the same place are no fallback.
    assert router.choose([red, endpoint("b2", provider="blue")], wish=alone).candidate.id == "b2"


def test_who_ruled_everybody_out_is_told_how(router: Router) -> None:
    several = [endpoint("a", provider="red"), endpoint("b", provider="blue", zdr=True)]
    with pytest.raises(BadRequest) as caught:
        router.choose(several, wish=_wish(zdr=True, ignore=["blue"]))
    error = caught.value
    assert (error.code, error.param) == ("no_endpoint_matches", "provider")
    assert error.details["endpoints"] == {"a": "zdr: may keep data", "b": "ignore: is blue"}
    with pytest.raises(BadRequest) as caught:
        router.choose(endpoints("a", supports=frozenset()), wanted=frozenset({"tools", "seed"}))
    assert caught.value.param == "tools"


def test_each_retry_goes_elsewhere_and_says_after_what(router: Router) -> None:
    several = endpoints("a", "b", "c")
    tried: list[Choice[Candidate]] = []
    failures: tuple[Failure, ...] = ("connect", "timeout", "busy")
    for failure in failures:
        tried.append(router.choose(several, tried=tried))
        router.failed(tried[-1], failure)
    assert {c.candidate.id for c in tried} == {"a", "b", "c"}
    assert [c.why for c in tried] == [
        "least_loaded",
        "retry:connect>least_loaded",
        "retry:timeout>only",
    ]
    with pytest.raises(Unavailable, match="tried: busy"):
        router.choose(several, tried=tried)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["choose", "answered", "ended", "failed", "busy", "abandoned", "wait"]),
        st.integers(0, 2**64 - 1),
    ),
    max_size=120,
)
FLEETS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.none() | st.integers(1, 4)),
    min_size=1,
    max_size=5,
)


@given(fleet=FLEETS, steps=STEPS)
def test_the_unfit_never_answer_while_another_is_fit(
    fleet: list[tuple[int, int, int | None]], steps: list[tuple[str, int]]
) -> None:
    """A model of the rules beside the router: who cools, who is full, and which priority is due."""
    clock = HandClock()
    router = Router(clock, chance=random.Random(1))
    several = [
        endpoint(f"e{n}", weight=w, priority=p, max_concurrency=m)
        for n, (w, p, m) in enumerate(fleet)
    ]
    running: list[Choice[Candidate]] = []
    for act, number in steps:
        if act == "wait":
            clock.wait(number % 5)
        elif act == "choose":
            standing = {s.id: s for s in router.standings()}
            probing = {c.candidate.id for c in running if c.probe}

            def fit(
                c: Candidate,
                standing: dict[str, Any] = standing,
                probing: set[str] = probing,
            ) -> bool:
                known = standing.get(c.id)
                if c.weight == 0:
                    return False
                if known is None:
                    return True
                full = c.max_concurrency is not None and known.in_flight >= c.max_concurrency
                usable = known.state == "closed" or (
                    known.state == "half_open" and c.id not in probing
                )
                return usable and not full

            able = [c for c in several if fit(c)]
            affinity = number if number % 2 else None
            if not able:
                with pytest.raises(Unavailable) as caught:
                    router.choose(several, affinity=affinity)
                assert set(caught.value.details["endpoints"]) == {c.id for c in several}
                continue
            choice = router.choose(several, affinity=affinity)
            assert choice.candidate in able
            assert choice.candidate.priority == min(c.priority for c in able)
            assert WHY.fullmatch(choice.why)
            half_open = standing.get(choice.candidate.id)
            assert choice.probe == (half_open is not None and half_open.state == "half_open")
            running.append(choice)
        elif running:
            choice = running[number % len(running)]
            if act == "answered":
                router.answered(choice)
                continue
            running.remove(choice)
            if act == "ended":
                router.ended(choice, number % 100)
            elif act == "failed":
                router.failed(choice, "status")
            elif act == "busy":
                router.failed(choice, "busy", number % 3)
            else:
                router.abandoned(choice)
    for standing_now in router.standings():
        count = sum(c.candidate.id == standing_now.id for c in running)
        assert standing_now.in_flight == count


@given(
    weights=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    calls=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=200),
    epsilon=st.sampled_from([0.1, 0.25, 1.0]),
)
def test_nobody_carries_more_than_the_bound(
    weights: list[int], calls: list[tuple[int, bool]], epsilon: float
) -> None:
    """Four keys only, so that homes are crowded; whoever is sent a call was below the bound before."""
    router = Router(HandClock(), epsilon=epsilon, at_ease=2)
    several = [endpoint(f"e{n}", weight=w) for n, w in enumerate(weights)]
    running: list[Choice[Candidate]] = []
    for key, leaves in calls:
        if leaves and running:
            router.ended(running.pop(0))
        running.append(router.choose(several, affinity=key))
        carried = Counter(c.candidate.id for c in running)
        chosen = running[-1].candidate
        share = (1 + epsilon) * len(running) * chosen.weight / sum(weights)
        assert carried[chosen.id] <= max(2, ceil(share + 1e-9))


WISHES = st.fixed_dictionaries(
    {},
    optional={
        "order": st.lists(st.sampled_from(["p0", "p1", "p2", "x"]), max_size=3),
        "ignore": st.lists(st.sampled_from(["p0", "p1"]), max_size=1),
        "only": st.lists(st.sampled_from(["p0", "p1", "p2"]), min_size=1, max_size=3),
        "allow_fallbacks": st.booleans(),
        "zdr": st.booleans(),
        "sort": st.sampled_from(["price", "throughput", "latency"]),
        "max_price": st.just({"prompt": 2}),
    },
)


@given(
    asked=WISHES,
    fleet=st.lists(st.integers(0, 11), min_size=1, max_size=6),
    calls=st.integers(1, 8),
)
def test_a_wish_is_kept_or_refused(asked: dict[str, Any], fleet: list[int], calls: int) -> None:
    router = Router(HandClock())
    several = [
        endpoint(
            f"e{n}",
            provider=f"p{kind % 3}",
            zdr=kind % 2 == 0,
            input_u_per_m=(kind % 4) * 1_000_000,
            output_u_per_m=0,
        )
        for n, kind in enumerate(fleet)
    ]
    wish = _wish(**asked)
    if all(objection(wish, c, frozenset()) for c in several):
        with pytest.raises(BadRequest) as refused:
            router.choose(several, wish=wish)
        assert set(refused.value.details["endpoints"]) == {c.id for c in several}
        return
    for _ in range(calls):
        choice = router.choose(several, wish=wish)
        c = choice.candidate
        assert WHY.fullmatch(choice.why)
        assert c.provider in asked.get("only", [c.provider])
        assert c.provider not in asked.get("ignore", [])
        assert c.zdr or not asked.get("zdr")
        assert "max_price" not in asked or (c.input_u_per_m or 0) <= 2_000_000
        if asked.get("order") and asked.get("allow_fallbacks") is False:
            assert c.provider in asked["order"]
