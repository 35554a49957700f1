"""What workers have counted, added up while they come and go."""

from __future__ import annotations

from marketplace.gateway.counters import Counters


def _of(prefix: str) -> Counters:
    counters = Counters()
    for number in range(2_500):
        counters.refuse(f"{prefix}{number}")
    return counters


def test_a_worker_keeps_a_bounded_number_of_names() -> None:
    one = _of("a").refused
    assert len(one) == 2_001
    assert sum(one.values()) == 2_500


def test_no_sum_goes_down_when_a_worker_ends() -> None:
    first, second = _of("a"), _of("b")
    before, after, past = Counters(), Counters(), Counters()
    for counters in (first, second):
        before.add(counters)
    past.add(second)  # it has ended
    for counters in (past, first):
        after.add(counters)
    assert after.refused == before.refused
    assert sum(after.refused.values()) == 5_000
