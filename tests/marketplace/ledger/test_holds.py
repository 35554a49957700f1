"""The life of a hold: promised once, settled within it, released whole, and never twice."""

from __future__ import annotations

import pytest
from support.ledger_world import T0, TTL, World

from catalog.ground.clock import SECOND_US
from catalog.ground.errors import (
    BadRequest,
    Conflict,
    InternalError,
    LedgerCorrupt,
    NotFound,
    PaymentRequired,
)
from marketplace.ledger.operations import Available, Done, Held, Hold, Leg
from marketplace.ledger.sweep import expired_holds


def test_a_hold_promises_and_a_settlement_pays_no_more(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    held = world.do(world.hold("c1", (wallet, 60), plan='{"p":1}'))
    assert held == Held((Leg(wallet, 60, world.clearing),), '{"p":1}')
    assert world.totals(wallet) == (60, 0, 100)
    assert world.do(world.settle("c1", [45], wallet=45, voucher=0)) == Done(changed=True)
    assert world.totals(wallet) == (0, 45, 100)
    assert world.left(wallet) == 55


def test_what_is_promised_cannot_be_promised_again(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c1", (wallet, 60)))
    with pytest.raises(PaymentRequired):
        world.do(world.hold("c2", (wallet, 41)))
    with pytest.raises(PaymentRequired):
        world.do(world.post("out", wallet, world.bank, 41))
    world.do(world.hold("c3", (wallet, 40)))
    assert world.left(wallet) == 0


def test_two_legs_on_one_account_are_one_promise(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    with pytest.raises(PaymentRequired):
        world.do(world.hold("c1", (wallet, 60), (wallet, 60)))
    assert world.left(wallet) == 100


def test_a_settlement_beyond_its_hold_is_corrupt_and_changes_nothing(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c1", (wallet, 60)))
    for posted in ([61], [-1], [30, 30], []):
        with pytest.raises(LedgerCorrupt):
            world.do(world.settle("c1", posted, cost=sum(posted)))
    assert world.totals(wallet) == (60, 0, 100)
    world.do(world.settle("c1", [60], wallet=60, voucher=0))


def test_clearing_is_empty_when_a_settlement_is_done(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c1", (wallet, 60)))
    fair = world.settle("c1", [60])
    for entries in ((), (*fair.entries, *fair.entries)):
        short = type(fair)(fair.tx, fair.posted, entries, fair.usage, fair.at_us)
        with pytest.raises(LedgerCorrupt, match="clearing"):
            world.do(short)
    world.do(world.release("c1"))


def test_overrun_is_the_platforms(world: World) -> None:
    wallet = world.account("wallet:a", 10)
    world.do(world.hold("c1", (wallet, 10)))
    world.do(world.settle("c1", [10], cost=17, wallet=10, voucher=0))
    assert world.left(wallet) == 0


@pytest.mark.parametrize("expired", [False, True])
def test_a_release_gives_everything_back_once(world: World, expired: bool) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c1", (wallet, 60), (wallet, 5)))
    assert world.do(world.release("c1", expired=expired)) == Done(changed=True)
    assert world.totals(wallet) == (0, 0, 100)
    assert world.do(world.release("c1", expired=expired)) == Done(changed=False)
    assert world.do(world.release("c1", expired=not expired)) == Done(changed=False)
    with pytest.raises(Conflict):
        world.do(world.settle("c1", [60, 5]))
    assert world.totals(wallet) == (0, 0, 100)


def test_repeating_changes_nothing(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c1", (wallet, 60)))
    world.do(world.settle("c1", [45], wallet=45, voucher=0))
    before = world.totals(wallet)
    assert world.do(world.settle("c1", [45], wallet=45, voucher=0)) == Done(changed=False)
    assert world.do(world.release("c1")) == Done(changed=False)
    assert world.totals(wallet) == before


def test_a_settlement_twice_in_one_batch_counts_once(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c1", (wallet, 60)))
    paid = world.settle("c1", [45], wallet=45, voucher=0)
    outcomes = world.apply(paid, paid, world.release("c1"))
    assert outcomes == [Done(changed=True), Done(changed=False), Done(changed=False)]
    assert world.totals(wallet) == (0, 45, 100)


def test_a_refusal_leaves_no_trace_and_spoils_nobody(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    good, poor, good2 = world.apply(
        world.hold("c1", (wallet, 60)),
        world.hold("c2", (wallet, 60)),
        world.hold("c3", (wallet, 40)),
    )
    assert isinstance(good, Held)
    assert isinstance(good2, Held)
    assert isinstance(poor, PaymentRequired)
    assert world.totals(wallet) == (100, 0, 100)


def test_a_bug_in_the_caller_refuses_its_own_hold(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    other = world.account("wallet:b", 100)

    def breaks(available: Available) -> tuple[tuple[Leg, ...], str]:
        return (Leg(wallet, available[10**6], world.clearing),), ""

    def strays(_available: Available) -> tuple[tuple[Leg, ...], str]:
        return (Leg(other, 1, world.clearing),), ""

    def takes(_available: Available) -> tuple[tuple[Leg, ...], str]:
        return (Leg(wallet, -5, world.clearing),), ""

    outcomes = world.apply(
        *(
            Hold(f"c{i}", "org", (wallet,), d, T0, T0 + TTL)
            for i, d in enumerate((breaks, strays, takes))
        ),
        world.hold("good", (wallet, 100)),
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [InternalError, NotFound, BadRequest, Held]
    assert world.totals(wallet) == (100, 0, 100)


def test_decide_sees_what_earlier_holds_of_the_batch_left(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    seen = []

    def decide(available: Available) -> tuple[tuple[Leg, ...], str]:
        seen.append(available[wallet])
        assert available.get(10**6, 7) == 7
        return (Leg(wallet, 30, world.clearing),), ""

    world.apply(*(Hold(f"c{i}", "org", (wallet,), decide, T0, T0 + TTL) for i in range(3)))
    assert seen == [100, 70, 40]


def test_a_call_that_costs_nothing_is_an_event_too(world: World) -> None:
    world.do(world.hold("c1"))
    assert world.do(world.settle("c1", [])) == Done(changed=True)
    assert world.do(world.settle("c1", [])) == Done(changed=False)


def test_the_sweeper_expires_what_outlived_its_call(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("c1", (wallet, 30)))
    world.do(world.hold("c2", (wallet, 30)))
    assert world.do(world.renew("c2", T0 + 2 * TTL)) == Done(changed=True)
    assert world.do(world.renew("gone", T0 + 2 * TTL)) == Done(changed=False)
    with world.database.reading() as session:
        assert expired_holds(session, T0 + TTL - 1) == []
        overdue = expired_holds(session, T0 + TTL)
    assert [(r.tx, r.expired) for r in overdue] == [("c1", True)]
    world.apply(*overdue)
    assert world.totals(wallet) == (30, 0, 100)
    with world.database.reading() as session:
        assert [r.tx for r in expired_holds(session, T0 + 3 * TTL, limit=1)] == ["c2"]
    world.do(world.release("c2", expired=True, at_us=T0 + 3 * TTL + SECOND_US))
