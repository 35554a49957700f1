"""Limits: all or nothing, exact bursts, what is given back, and what a caller is told."""

from __future__ import annotations

import pytest

from catalog.ground.clock import HOUR_US, MINUTE_US, SECOND_US
from catalog.ground.errors import RateLimited
from catalog.ground.rendering import render_openai
from marketplace.gateway import limits as module
from marketplace.gateway.limits import Limits
from marketplace.gateway.meters import SECOND_PS, Quota, duration

T0 = 1_800_000_000 * SECOND_US


def four(**key: int) -> tuple[Quota, ...]:
    return (
        Quota("key", "key:k", **key),
        Quota("member", "member:m", 1000, 100_000, 50),
        Quota("organisation", "org:o", 2000, 200_000, 100),
        Quota("listing", "listing:l", 5000, 1_000_000, 500),
    )


def taken(limits: Limits, quotas: tuple[Quota, ...], tokens: int = 0, at_us: int = T0) -> int:
    """Return how many calls get in at once."""
    number = 0
    try:
        while True:
            limits.enter(quotas, tokens, at_us)
            number += 1
    except RateLimited:
        return number


def told(limits: Limits, quotas: tuple[Quota, ...], at_us: int = T0) -> dict[str, str]:
    ticket = limits.enter(quotas, 0, at_us)
    return {name.decode(): value.decode() for name, value in ticket.headers()}


@pytest.mark.parametrize("rpm", [1, 7, 59, 60, 61, 600, 9973])
def test_a_burst_is_one_whole_minute_and_then_the_rate(rpm: int) -> None:
    limits, quotas = Limits(), (Quota("key", "key:k", rpm),)
    assert taken(limits, quotas) == rpm
    assert taken(limits, quotas, at_us=T0 + MINUTE_US // 2) == rpm // 2
    assert taken(limits, quotas, at_us=T0 + 10 * MINUTE_US) == rpm


def test_each_rule_refuses_by_its_name() -> None:
    cases = [
        (Quota("key", "s", 2, None, None), 0, "limits.key.rpm"),
        (Quota("member", "s", None, 100, None), 40, "limits.member.tpm"),
        (Quota("organisation", "s", None, None, 2), 0, "limits.organisation.concurrency"),
        (Quota("listing", "s", 2, None, None), 0, "limits.listing.rpm"),
    ]
    for quota, tokens, rule in cases:
        limits = Limits()
        for _ in range(2):
            limits.enter((quota,), tokens, T0)
        with pytest.raises(RateLimited) as caught:
            limits.enter((quota,), tokens, T0)
        assert caught.value.rule == rule
        assert caught.value.remedy


def test_waiting_as_long_as_it_says_lets_the_call_in() -> None:
    for quota, tokens in (
        (Quota("key", "s", 7), 0),
        (Quota("key", "s", None, 1000), 300),
    ):
        limits = Limits()
        taken(limits, (quota,), tokens)
        with pytest.raises(RateLimited) as caught:
            limits.enter((quota,), tokens, T0)
        assert caught.value.retry_after_s is not None
        wait_us = round(caught.value.retry_after_s * SECOND_US)
        with pytest.raises(RateLimited):
            limits.enter((quota,), tokens, T0 + wait_us - 1000)
        limits.enter((quota,), tokens, T0 + wait_us + 1)


def test_a_refusal_takes_nothing_from_anybody() -> None:
    limits = Limits()
    narrow = (*four(), Quota("listing", "listing:narrow", None, None, 1))
    first = limits.enter(narrow, 1000, T0)
    before = told(limits, four())
    for _ in range(100):
        with pytest.raises(RateLimited):
            limits.enter(narrow, 1000, T0)
    after = told(limits, four())
    assert (
        int(before["x-ratelimit-remaining-requests"])
        == int(after["x-ratelimit-remaining-requests"]) + 1
    )
    assert before["x-ratelimit-remaining-tokens"] == after["x-ratelimit-remaining-tokens"]
    first.leave()
    limits.enter(narrow, 1000, T0)


def test_more_keys_of_one_organisation_give_nothing() -> None:
    limits = Limits()
    org = Quota("organisation", "org:o", 100)
    got = sum(taken(limits, (Quota("key", f"key:{n}", 60), org)) for n in range(5))
    assert got == 100


def test_places_come_back_once() -> None:
    limits, quotas = Limits(), (Quota("key", "k", None, None, 2),)
    first = limits.enter(quotas, 0, T0)
    limits.enter(quotas, 0, T0)
    first.leave()
    first.leave()
    limits.enter(quotas, 0, T0)
    with pytest.raises(RateLimited, match="2 calls running"):
        limits.enter(quotas, 0, T0)


def test_unused_tokens_come_back_and_more_than_reserved_is_charged() -> None:
    limits, quotas = Limits(), (Quota("key", "k", None, 1000),)
    ticket = limits.enter(quotas, 1000, T0)
    with pytest.raises(RateLimited):
        limits.enter(quotas, 500, T0)
    ticket.settle(100)
    ticket.settle(0)  # only the first counts
    ticket = limits.enter(quotas, 900, T0)
    ticket.settle(1400)
    with pytest.raises(RateLimited) as caught:
        limits.enter(quotas, 1, T0)
    assert caught.value.retry_after_s == pytest.approx(30, abs=0.1)


def test_a_call_that_came_to_nothing_has_used_no_tokens() -> None:
    """Whoever is refused after the limits (no money, no engine, a full queue) has nothing to settle."""
    limits, quotas = Limits(), (Quota("key", "k", None, 1000),)
    for _ in range(3):
        limits.enter(quotas, 1000, T0).leave()
    served = limits.enter(quotas, 1000, T0)
    served.settle(600)
    served.leave()
    limits.enter(quotas, 400, T0)
    with pytest.raises(RateLimited):
        limits.enter(quotas, 1, T0)


def test_what_time_has_given_back_is_not_given_back_again() -> None:
    limits, quotas = Limits(), (Quota("key", "k", None, 1000),)
    slow = limits.enter(quotas, 1000, T0)
    busy = limits.enter(quotas, 1000, T0 + MINUTE_US)
    slow.settle(0)
    with pytest.raises(RateLimited):
        limits.enter(quotas, 10, T0 + MINUTE_US)
    busy.settle(0)
    limits.enter(quotas, 1000, T0 + MINUTE_US)


def test_half_of_it_drained_half_of_it_returns() -> None:
    limits, quotas = Limits(), (Quota("key", "k", None, 1000),)
    slow = limits.enter(quotas, 1000, T0)
    limits.enter(quotas, 500, T0 + MINUTE_US // 2)
    slow.settle(0)
    with pytest.raises(RateLimited):
        limits.enter(quotas, 501, T0 + MINUTE_US // 2)
    limits.enter(quotas, 500, T0 + MINUTE_US // 2)


def test_what_was_used_beyond_counts_from_when_it_is_known() -> None:
    limits, quotas = Limits(), (Quota("key", "k", None, 1000),)
    ticket = limits.enter(quotas, 0, T0)
    limits.enter((Quota("key", "another", 60),), 0, T0 + MINUTE_US)
    ticket.settle(600)
    with pytest.raises(RateLimited):
        limits.enter(quotas, 500, T0 + MINUTE_US)


def test_a_call_larger_than_a_minute_goes_alone_and_holds_back_what_follows() -> None:
    limits, quotas = Limits(), (Quota("key", "k", None, 1000),)
    limits.enter(quotas, 3000, T0)
    with pytest.raises(RateLimited) as caught:
        limits.enter(quotas, 1, T0)
    assert caught.value.retry_after_s == pytest.approx(120, abs=0.1)
    with pytest.raises(RateLimited):
        limits.enter(quotas, 3000, T0 + 2 * MINUTE_US)
    limits.enter(quotas, 3000, T0 + 3 * MINUTE_US)


def test_the_longest_wait_is_told() -> None:
    limits = Limits()
    quotas = (Quota("key", "k", 60), Quota("organisation", "o", None, 600))
    for _ in range(60):
        limits.enter(quotas, 10, T0)
    with pytest.raises(RateLimited) as caught:
        limits.enter(quotas, 100, T0)
    assert caught.value.rule == "limits.organisation.tpm"
    assert caught.value.retry_after_s == pytest.approx(10, abs=0.1)


def test_headers_are_openais_and_of_the_tightest_subject() -> None:
    limits = Limits()
    headers = told(limits, four(rpm=60, tpm=6000))
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "6000",
        "x-ratelimit-reset-tokens": "0s",
    }
    limits.enter(four(rpm=60, tpm=6000), 3000, T0)
    assert told(limits, four(rpm=60, tpm=6000))["x-ratelimit-reset-tokens"] == "30s"
    assert Limits().enter((Quota("key", "k"),), 5, T0).headers() == []


def test_the_answer_carries_the_headers_and_when_to_come_again() -> None:
    limits, quotas = Limits(), (Quota("key", "k", 60, 600),)
    limits.enter(quotas, 600, T0)
    with pytest.raises(RateLimited) as caught:
        limits.enter(quotas, 15, T0)
    answer = render_openai(caught.value)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["retry-after-ms"] == "1500"
    assert answer.headers["x-ratelimit-remaining-requests"] == "59"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
    assert answer.headers["x-ratelimit-reset-tokens"] == "1m0s"


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (-5, "0s"),
        (0, "0s"),
        (1, "1ms"),
        (120, "120ms"),
        (1000, "1s"),
        (1250, "1.25s"),
        (59_999, "59.999s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (3_723_004, "1h2m3.004s"),
    ],
)
def test_times_are_written_as_openai_writes_them(ms: int, words: str) -> None:
    assert duration(ms * SECOND_PS // 1000).decode() == words


@pytest.mark.parametrize("workers", [2, 3, 4, 7])
def test_workers_together_never_grant_more(workers: int) -> None:
    everybody = [Limits(share=workers) for _ in range(workers)]
    assert sum(taken(limits, (Quota("key", "k", 600),)) for limits in everybody) <= 600
    later = T0 + MINUTE_US
    assert sum(taken(limits, (Quota("key", "k", 600),), at_us=later) for limits in everybody) <= 600
    assert sum(taken(limits, (Quota("key", "c", None, None, 20),)) for limits in everybody) <= 20
    assert sum(taken(limits, (Quota("key", "one", 1),)) for limits in everybody) == workers


def test_new_limits_count_at_once_and_forgive_nothing() -> None:
    limits = Limits()
    assert taken(limits, (Quota("key", "k", 60),)) == 60
    assert taken(limits, (Quota("key", "k", 600),)) == 0
    assert taken(limits, (Quota("key", "k", 600),), at_us=T0 + SECOND_US) == 10


def test_a_wall_clock_that_was_set_back_stops_nobody() -> None:
    limits, quotas = Limits(), (Quota("key", "k", 60),)
    taken(limits, quotas)
    assert taken(limits, quotas, at_us=T0 - HOUR_US) == 0
    assert taken(limits, quotas, at_us=T0 - HOUR_US + 5 * SECOND_US) == 5


def test_calls_a_little_out_of_order_gain_no_time() -> None:
    limits, quotas = Limits(), (Quota("key", "k", 60),)
    taken(limits, quotas)
    for _ in range(100):
        assert taken(limits, quotas, at_us=T0 - 30 * SECOND_US) == 0
        assert taken(limits, quotas, at_us=T0) == 0


def test_subjects_that_owe_nothing_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN", 10)
    limits = Limits()
    running = limits.enter((Quota("key", "running", None, None, 1),), 0, T0)
    for number in range(200):
        limits.enter((Quota("key", f"k{number}", 60),), 0, T0 + number * SECOND_US).leave()
    assert len(limits._meters) < 15
    with pytest.raises(RateLimited):
        limits.enter((Quota("key", "running", None, None, 1),), 0, T0 + HOUR_US)
    running.leave()
