"""Errors open the circuit, one probe closes it, and one that flaps is left alone for longer and longer."""

from __future__ import annotations

from typing import get_args

import pytest
from support.routing import HandClock, endpoint, endpoints

from catalog.ground.errors import Unavailable
from serving.routing import Breaker, Candidate, Choice, Failure, Router, parse_wish

A, B = endpoints("a", "b")


def _fail(
    router: Router,
    candidate: Candidate,
    times: int,
    failure: Failure = "connect",
    caller: str = "",
) -> None:
    for _ in range(times):
        router.failed(router.choose([candidate], caller=caller), failure)


def _state(router: Router, name: str = "a") -> str:
    return next(s.state for s in router.standings() if s.id == name)


def test_errors_in_a_window_lead_to_a_cooldown(router: Router, clock: HandClock) -> None:
    _fail(router, A, 2)
    assert router.choose([A]).why == "only"
    _fail(router, A, 1)
    assert _state(router) == "cooling"
    for _ in range(20):
        choice = router.choose([A, B])
        assert (choice.candidate.id, choice.why) == ("b", "only")
    with pytest.raises(Unavailable) as caught:
        router.choose([A])
    assert caught.value.details == {"endpoints": {"a": "cooling for 1.0 s"}}
    assert caught.value.retry_after_s == 1.0
    assert caught.value.code == "no_healthy_endpoint"


def test_errors_far_apart_do_not(router: Router, clock: HandClock) -> None:
    for _ in range(10):
        _fail(router, A, 1)
        clock.wait(16)
    assert _state(router) == "closed"


def test_a_stream_is_one_call_when_errors_are_weighed(router: Router) -> None:
    """A quarter breaks off after the first byte: a fifth would do, and beginning well is no other answer."""
    for _ in range(3):
        for fails in (False, False, False, True):
            choice = router.choose([A])
            router.answered(choice)
            if fails:
                router.failed(choice, "broken")
            else:
                router.ended(choice, 10)
    assert _state(router) == "cooling"


def test_few_errors_among_many_answers_do_not(router: Router, clock: HandClock) -> None:
    for _ in range(50):
        for _ in range(20):
            router.ended(router.choose([A]), 10)
        clock.wait(0.1)
        _fail(router, A, 1, "status")
    assert _state(router) == "closed"


@pytest.mark.parametrize("failure", [f for f in get_args(Failure) if f != "busy"])
def test_every_kind_of_error_counts(router: Router, failure: Failure) -> None:
    _fail(router, A, 3, failure)
    assert _state(router) == "cooling"


def test_who_left_and_who_was_refused_are_no_errors(router: Router) -> None:
    for _ in range(20):
        router.abandoned(router.choose([A]))
        router.ended(router.choose([A]))
    assert _state(router) == "closed"
    assert router.standings()[0].in_flight == 0


def test_exactly_one_probe_goes_through(router: Router, clock: HandClock) -> None:
    _fail(router, A, 3)
    clock.wait(1)
    assert _state(router) == "half_open"
    choices = [router.choose([A, B]) for _ in range(50)]
    probes = [c for c in choices if c.candidate.id == "a"]
    assert [(c.why, c.probe) for c in probes] == [("probe", True)]
    with pytest.raises(Unavailable, match="probing"):
        router.choose([A])
    router.ended(probes[0], 5)
    assert _state(router) == "closed"
    assert router.choose([A]).why == "only"


def test_the_first_byte_of_a_stream_is_enough(router: Router, clock: HandClock) -> None:
    _fail(router, A, 3)
    clock.wait(1)
    probe = router.choose([A])
    router.answered(probe)
    assert _state(router) == "closed"
    # The rest of that stream is no probe any more: it can neither reopen nor close the circuit alone.
    _fail(router, A, 3)
    clock.wait(2)
    second = router.choose([A])
    assert second.probe
    router.failed(probe, "broken")
    with pytest.raises(Unavailable, match="probing"):
        router.choose([A])


def test_a_probe_that_nobody_waits_for_proves_nothing(router: Router, clock: HandClock) -> None:
    _fail(router, A, 3)
    clock.wait(1)
    router.abandoned(router.choose([A]))
    assert _state(router) == "half_open"
    assert router.choose([A]).why == "probe"


def test_who_has_met_a_failure_is_no_probe(router: Router, clock: HandClock) -> None:
    _fail(router, A, 3)
    clock.wait(1)
    c = endpoint("c")
    first = router.choose([c])
    router.failed(first, "timeout")
    for _ in range(10):
        choice = router.choose([A, B, c], tried=[first])
        assert (choice.candidate.id, choice.why) == ("b", "retry:timeout>only")
    alone = router.choose([A, c], tried=[first])
    assert (alone.candidate.id, alone.why) == ("a", "retry:timeout>probe")


def test_one_that_flaps_backs_off(clock: HandClock) -> None:
    router = Router(clock, breaker=Breaker(first_s=1, longest_s=60, calm_s=120))
    pauses = []
    for _ in range(9):
        _fail(router, A, 3)
        (standing,) = router.standings()
        pauses.append(standing.wait_s)
        clock.wait(standing.wait_s)
        router.ended(router.choose([A]), 1)  # The probe is fine, and then it fails again.
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    clock.wait(120)
    _fail(router, A, 3)
    assert router.standings()[0].wait_s == 1, "trusted again after a calm time"


def test_a_probe_that_fails_doubles_the_pause(router: Router, clock: HandClock) -> None:
    _fail(router, A, 3)
    for pause_s in (1, 2, 4, 8, 16, 32, 60, 60):
        assert router.standings()[0].wait_s == pause_s
        clock.wait(pause_s)
        router.failed(router.choose([A]), "connect")


def test_calls_that_began_before_change_nothing(router: Router, clock: HandClock) -> None:
    late = [router.choose([A]) for _ in range(20)]
    _fail(router, A, 3)
    for choice in late[:10]:
        router.failed(choice, "broken")
    assert router.standings()[0].wait_s == 1
    for choice in late[10:]:
        router.ended(choice, 5)
    assert _state(router) == "cooling"


def test_a_busy_endpoint_rests_and_comes_back_without_a_probe(
    router: Router, clock: HandClock
) -> None:
    for _ in range(5):
        router.failed(router.choose([A]), "busy", retry_after_s=3)
        with pytest.raises(Unavailable, match=r"busy for 3\.0 s"):
            router.choose([A])
        clock.wait(3)
    assert [router.choose([A]).why for _ in range(3)] == ["only"] * 3
    router.failed(router.choose([A]), "busy", retry_after_s=1e9)
    assert router.standings()[0].wait_s == 30


def test_an_engine_that_was_started_again_is_a_new_one(router: Router) -> None:
    _fail(router, A, 3)
    moved = Candidate(id="a", url="http://elsewhere", model="m")
    assert router.choose([moved]).why == "only"


def test_a_place_is_given_back_once(router: Router) -> None:
    def leave_in_every_way(choice: Choice[Candidate]) -> None:
        router.ended(choice, 5)
        router.failed(choice, "status")
        router.abandoned(choice)
        router.answered(choice)

    for _ in range(5):
        leave_in_every_way(router.choose([A]))
    (standing,) = router.standings()
    assert (standing.in_flight, standing.state) == (0, "closed")


def test_speeds_are_medians_of_the_last_minutes(router: Router, clock: HandClock) -> None:
    for seconds in (1, 2, 4):
        choice = router.choose([A])
        clock.wait(seconds)
        router.answered(choice)
        clock.wait(seconds)
        router.ended(choice, 100)
    (standing,) = router.standings()
    assert (standing.tokens_per_s, standing.first_token_s) == (25.0, 2.0)
    clock.wait(301)
    (standing,) = router.standings()
    assert (standing.tokens_per_s, standing.first_token_s) == (None, None)


def test_endpoints_that_vanished_are_forgotten(router: Router, clock: HandClock) -> None:
    held = router.choose([endpoint("held")])
    for hour in range(50):
        for n in range(100):
            router.abandoned(router.choose([endpoint(f"e{hour}.{n}")]))
        clock.wait(3600)
    assert len(router.standings()) < 400
    router.ended(held, 1)
    assert next(s for s in router.standings() if s.id == "held").in_flight == 0


# Whose errors they are.


@pytest.mark.parametrize("failure", ["timeout", "status", "broken"])
def test_one_callers_errors_keep_nobody_else_away(router: Router, failure: Failure) -> None:
    _fail(router, A, 3, failure, "greedy")
    with pytest.raises(Unavailable) as caught:
        router.choose([A], caller="greedy")
    assert caught.value.details == {"endpoints": {"a": "cooling for 1.0 s"}}
    assert router.choose([A, B], caller="greedy").candidate == B
    assert _state(router) == "closed"
    assert next(s for s in router.standings() if s.id == "a").apart == 1
    for _ in range(20):
        choice = router.choose([A], caller="modest")
        assert choice.why == "only"
        router.ended(choice, 5)


def test_the_errors_of_a_second_caller_open_it_for_all(router: Router) -> None:
    _fail(router, A, 3, "status", "one")
    _fail(router, A, 1, "status", "two")
    assert _state(router) == "cooling"
    with pytest.raises(Unavailable, match="cooling"):
        router.choose([A], caller="three")


def test_an_engine_that_is_not_there_is_there_for_nobody(router: Router) -> None:
    _fail(router, A, 3, "connect", "one")
    assert _state(router) == "cooling"
    with pytest.raises(Unavailable, match="cooling"):
        router.choose([A], caller="two")


def test_a_flood_of_one_callers_errors_is_no_evidence_against_the_engine(
    router: Router, clock: HandClock
) -> None:
    """What he had in flight when he was set apart fails as well; later one error of somebody else is one."""
    flood = [router.choose([A], caller="greedy") for _ in range(100)]
    for choice in flood:
        router.failed(choice, "timeout")
        clock.wait(0.5)
    _fail(router, A, 2, "timeout", "modest")
    assert _state(router) == "closed"
    assert router.choose([A], caller="modest").why == "only"


def test_who_is_apart_comes_back_by_a_probe_of_his_own(router: Router, clock: HandClock) -> None:
    _fail(router, A, 3, "status", "one")
    for pause_s in (1, 2, 4):
        clock.wait(pause_s)
        probe = router.choose([A, B], caller="one")
        assert (probe.candidate, probe.why, probe.probe) == (A, "probe", True)
        with pytest.raises(Unavailable, match="probing"):
            router.choose([A], caller="one")
        other = router.choose([A], caller="two")
        assert (other.why, other.probe) == ("only", False)
        router.ended(other, 1)
        router.failed(probe, "status")
    clock.wait(8)
    router.abandoned(router.choose([A], caller="one"))
    probe = router.choose([A], caller="one")
    assert probe.probe, "one that nobody waited for proved nothing"
    router.ended(probe, 1)
    assert [router.choose([A], caller="one").why for _ in range(3)] == ["only"] * 3
    assert router.standings()[0].apart == 0
    _fail(router, A, 2, "status", "one")
    assert router.choose([A], caller="one").why == "only", "trusted as at first"


def test_one_callers_probes_do_not_keep_an_engine_from_the_others(
    router: Router, clock: HandClock
) -> None:
    _fail(router, A, 3, "status", "greedy")
    _fail(router, A, 1, "status", "modest")
    clock.wait(1)
    _fail(router, A, 1, "status", "greedy")  # it is everybody's matter, so it counts for everybody
    with pytest.raises(Unavailable, match="cooling for 2"):
        router.choose([A], caller="modest")
    clock.wait(2)
    for pause_s in (2, 4, 8):
        _fail(router, A, 1, "status", "greedy")  # it has failed for him before
        with pytest.raises(Unavailable, match=f"cooling for {pause_s}"):
            router.choose([A], caller="greedy")
        other = router.choose([A], caller="modest")
        assert other.probe
        router.abandoned(other)
        clock.wait(pause_s)
    router.ended(router.choose([A], caller="modest"), 1)
    assert _state(router) == "closed"
    assert router.choose([A], caller="modest").why == "only"


def test_a_caller_who_stays_away_is_forgotten(router: Router, clock: HandClock) -> None:
    _fail(router, A, 3, "status", "one")
    clock.wait(122)
    assert router.standings()[0].apart == 0
    assert router.choose([A], caller="two").why == "only"
    assert not router.choose([A], caller="one").probe


def test_both_circuits_open_and_close_for_themselves(router: Router, clock: HandClock) -> None:
    _fail(router, A, 3, "status", "one")
    _fail(router, A, 1, "connect", "two")
    assert _state(router) == "cooling"
    clock.wait(1)
    router.ended(router.choose([A], caller="two"), 1)
    assert _state(router) == "closed"
    assert router.choose([A], caller="two").why == "only"
    assert router.choose([A], caller="one").why == "probe"


def test_a_probe_that_the_wish_rules_out_is_none(router: Router, clock: HandClock) -> None:
    """Without fallbacks only the provider of who would be first may answer, well or on trial."""
    red = endpoint("r", provider="red", max_concurrency=1)
    blue = endpoint("b", provider="blue", priority=1)
    red2 = endpoint("r2", provider="red", priority=1)
    _fail(router, blue, 3)
    clock.wait(1)
    full = router.choose([red])
    alone = parse_wish(b'{"allow_fallbacks": false}')
    choice = router.choose([red, blue, red2], wish=alone)
    assert (choice.candidate, choice.probe) == (red2, False)
    router.abandoned(full)
