"""Calls without a hold of their own: charged beside what is held, once, or out of a reserve that shrinks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.ledger_lost import lose_an_answer
from support.ledger_world import T0, TTL, World, usage

from catalog.ground.clock import SECOND_US
from catalog.ground.errors import Conflict, LedgerCorrupt, PaymentRequired
from marketplace.ledger.archive import archive
from marketplace.ledger.chart import Code, Rule
from marketplace.ledger.operations import Charge, Done, Entry, Held, Leg, Operation
from marketplace.ledger.reading import legs_of
from marketplace.ledger.sweep import expired_holds, holds_from_ahead
from marketplace.ledger.verify import verify
from marketplace.ledger.writer import LedgerWriter

CHANGED, UNCHANGED = Done(changed=True), Done(changed=False)


def _rows(world: World) -> tuple[int, ...]:
    """Return how many rows there are of everything that an operation may leave."""
    tables = ("ledger_transfer", "usage_event", "ledger_hold", "ledger_batch")
    counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
    with world.database.reading() as session:
        return tuple(session.connection().execute(text(f"SELECT {counts}")).one())


def _open(world: World) -> dict[str, str]:
    """Return the legs of every open hold, as they are kept."""
    with world.database.reading() as session:
        rows = session.connection().execute(text("SELECT tx, legs FROM ledger_hold"))
        return {str(tx): str(legs) for tx, legs in rows}


@pytest.fixture
def wallet(world: World) -> int:
    """A wallet with 100, of which a reserve holds 60."""
    wallet = world.account("wallet:a", 100)
    world.do(world.hold("res_1", (wallet, 60)))
    return wallet


@pytest.fixture
def other(world: World) -> Iterator[World]:
    """Another writer of the same ledger, with a connection and a lane of its own."""
    other = World(world.database)
    yield other
    other.close()


# --- beside a reserve ---------------------------------------------------------------------------------


def test_a_charge_takes_what_is_beside_the_reserve(world: World, wallet: int) -> None:
    assert world.do(world.charge("c1", (wallet, 30), wallet=30, voucher=0)) == CHANGED
    assert world.totals(wallet) == (60, 30, 100)
    assert world.do(world.charge("c2", (wallet, 10), wallet=10, voucher=0)) == CHANGED
    assert world.totals(wallet) == (60, 40, 100)
    assert world.left(wallet) == 0
    assert world.problems() == []


def test_a_charge_that_finds_too_little_leaves_no_trace(world: World, wallet: int) -> None:
    before, rows = world.totals(wallet), _rows(world)
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c1", (wallet, 41), wallet=41, voucher=0))
    assert (world.totals(wallet), _rows(world)) == (before, rows)
    assert world.do(world.charge("c1", (wallet, 40), wallet=40, voucher=0)) == CHANGED


def test_a_refused_charge_spoils_nobody_in_its_batch(world: World, wallet: int) -> None:
    outcomes = world.apply(
        world.hold("h1", (wallet, 5)),
        world.charge("poor", (wallet, 36), wallet=36, voucher=0),
        world.charge("c1", (wallet, 15), wallet=15, voucher=0),
        world.post("p1", wallet, world.bank, 5),
        world.charge("poor too", (wallet, 16), wallet=16, voucher=0),
        world.charge("c2", (wallet, 15), wallet=15, voucher=0),
        world.hold("h2", (wallet, 1)),
        world.release("h0"),
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [
        Held, PaymentRequired, Done, Done, PaymentRequired, Done, PaymentRequired, Done,
    ]  # fmt: skip
    assert world.totals(wallet) == (65, 35, 100)
    with world.database.reading() as session:
        assert sorted(legs_of(session, ["poor", "c1", "poor too", "c2"])) == ["c1", "c2"]


def test_two_legs_on_one_account_are_one_charge(world: World, wallet: int) -> None:
    both = world.charge("c1", (wallet, 20), (wallet, 21), wallet=41, voucher=0)
    with pytest.raises(PaymentRequired):
        world.do(both)
    world.do(world.charge("c2", (wallet, 20), (wallet, 20), wallet=40, voucher=0))
    assert world.totals(wallet) == (60, 40, 100)


def test_one_account_that_has_too_little_refuses_all_legs(world: World, wallet: int) -> None:
    grant = world.account("grant:g", 10)
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c1", (wallet, 40), (grant, 11), wallet=40, voucher=11))
    assert (world.left(wallet), world.left(grant)) == (40, 10)
    world.do(world.charge("c1", (wallet, 40), (grant, 10), wallet=40, voucher=10))


def test_a_charge_of_nothing_is_an_event_all_the_same(world: World, wallet: int) -> None:
    assert world.do(world.charge("c0")) == CHANGED
    assert world.do(world.charge("c1", (wallet, 0))) == CHANGED
    assert world.totals(wallet) == (60, 0, 100)
    assert world.problems() == []


def test_overrun_of_a_charge_is_the_platforms(world: World, wallet: int) -> None:
    world.do(world.charge("c1", (wallet, 30), cost=37, wallet=30, voucher=0))
    assert world.totals(wallet) == (60, 30, 100)


@pytest.mark.parametrize("off", [-1, 1])
def test_clearing_is_empty_when_a_charge_is_done(world: World, wallet: int, off: int) -> None:
    fair = world.charge("c1", (wallet, 30), wallet=30, voucher=0)
    entry = Entry(Code.ACCRUE, world.clearing, world.maker, 30 + off)
    rows = _rows(world)
    with pytest.raises(LedgerCorrupt, match="clearing"):
        world.do(Charge(fair.tx, fair.legs, (entry,), fair.usage, fair.at_us))
    assert _rows(world) == rows
    world.do(fair)


def test_a_charge_of_what_is_no_account_or_no_amount_is_corrupt(world: World, wallet: int) -> None:
    rows = _rows(world)
    for leg in ((10**6, 5), (world.maker, 5), (world.clearing, 5), (wallet, -5)):
        with pytest.raises(LedgerCorrupt):
            world.apply(world.hold("h", (wallet, 1)), world.charge("c1", leg))
    assert _rows(world) == rows


def test_units_do_not_mix(world: World) -> None:
    """What a call may take: a wallet, a voucher, requests and tokens of quotas, and what counts a cap."""
    wallet, grant = world.account("wallet:a", 100), world.account("grant:g", 50)
    units = ("REQ:free", "TOK:free", "CAP")
    counted = {unit: world.account(f"quota:{unit}", unit=unit) for unit in units}
    sinks, out = {}, {}
    for unit, account in counted.items():
        with_rule = {"rule": Rule.PROJECTION, "unit": unit}
        sinks[unit] = world.account(f"used:{unit}", **with_rule)
        out[unit] = world.account(f"ext:{unit}", **with_rule)
        world.do(world.post(f"fund:{unit}", out[unit], account, 1_000))
    world.do(world.hold("res_q", (counted["TOK:free"], 900), sink=sinks["TOK:free"]))
    world.do(world.hold("res_w", (wallet, 60)))
    call = world.charge(
        "c1",
        (grant, 20),
        (counted["REQ:free"], 1, sinks["REQ:free"]),
        (counted["TOK:free"], 100, sinks["TOK:free"]),
        (wallet, 30),
        (counted["CAP"], 50, sinks["CAP"]),
        voucher=20,
        wallet=30,
    )
    assert world.do(call) == CHANGED
    assert world.totals(wallet) == (60, 30, 100)
    assert world.totals(grant) == (0, 20, 50)
    assert world.totals(counted["REQ:free"]) == (0, 1, 1_000)
    assert world.totals(counted["TOK:free"]) == (900, 100, 1_000)
    assert world.totals(counted["CAP"]) == (0, 50, 1_000)
    assert world.problems() == []
    one_token = (counted["TOK:free"], 1, sinks["TOK:free"])
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c2", (grant, 1), one_token, voucher=1))
    smaller = world.rehold("res_q", "res_q2", 899)
    world.do(world.charge("c3", (grant, 1), one_token, voucher=1, reholds=(smaller,)))
    assert world.totals(counted["TOK:free"]) == (899, 101, 1_000)
    expected = [[counted["TOK:free"], 899, sinks["TOK:free"]]]
    assert _open(world)["res_q2"].replace(" ", "") == str(expected).replace(" ", "")


def test_a_charge_is_seen_by_writers_that_remember(world: World, other: World) -> None:
    wallet = world.account("wallet:a", 100)
    world.do(world.charge("c1", (wallet, 10), wallet=10, voucher=0))
    other.do(other.hold("res_o", (wallet, 50)))
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c2", (wallet, 41), wallet=41, voucher=0))
    other.do(other.charge("c3", (wallet, 15), wallet=15, voucher=0))
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c2", (wallet, 26), wallet=26, voucher=0))
    world.do(world.charge("c2", (wallet, 25), wallet=25, voucher=0))
    assert world.totals(wallet) == (50, 50, 100)
    assert world.problems() == []


# --- reserves that shrink -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 25, 59, 60])
def test_a_rehold_keeps_a_part_under_another_name(world: World, wallet: int, kept: int) -> None:
    assert world.do(world.rehold("res_1", "res_2", kept, at_us=T0 + 7)) == CHANGED
    assert world.totals(wallet) == (kept, 0, 100)
    assert list(_open(world)) == (["res_2"] if kept else [])
    assert world.problems() == []
    assert world.do(world.rehold("res_1", "res_3", 5)) == UNCHANGED
    assert world.do(world.release("res_1")) == UNCHANGED
    assert world.totals(wallet) == (kept, 0, 100)
    with world.database.reading() as session:
        overdue = [r.tx for r in expired_holds(session, T0 + 7 + TTL)]
        assert expired_holds(session, T0 + 6 + TTL) == []
    assert overdue == (["res_2"] if kept else [])
    assert world.do(world.release("res_2")) == Done(changed=bool(kept))
    assert world.left(wallet) == 100


@pytest.mark.parametrize("wanted", [61, -1])
def test_a_rehold_of_more_than_is_held_takes_back_its_batch(
    world: World, wallet: int, wanted: int
) -> None:
    rows = _rows(world)
    bad = world.rehold("res_1", "res_2", wanted)
    for spoiler in (bad, world.charge("c1", (wallet, 1), wallet=1, voucher=0, reholds=(bad,))):
        with pytest.raises(LedgerCorrupt):
            world.apply(world.hold("h1", (wallet, 5)), spoiler)
        assert (_rows(world), world.totals(wallet)) == (rows, (60, 0, 100))
    # What was rolled back is forgotten: the reserve is still there, and its writer still ends it.
    assert world.do(world.rehold("res_1", "res_2", 60)) == CHANGED
    assert world.totals(wallet) == (60, 0, 100)


def test_only_a_hold_of_one_leg_is_reheld(world: World, wallet: int) -> None:
    world.do(world.hold("two", (wallet, 5), (wallet, 6)))
    world.do(world.hold("none"))
    for tx in ("two", "none"):
        with pytest.raises(LedgerCorrupt):
            world.do(world.rehold(tx, "res_2", 0))
    assert world.totals(wallet) == (71, 0, 100)


def test_a_rehold_of_what_somebody_else_ended_does_nothing(
    world: World, other: World, wallet: int
) -> None:
    world.do(world.hold("res_2", (wallet, 20)))
    other.do(other.release("res_1", expired=True))
    rows = _rows(world)
    assert world.do(world.rehold("res_1", "res_3", 30)) == UNCHANGED
    assert _rows(world) == rows
    # Beside one of its own that is still there, and with a charge that has to do without.
    poor = world.charge(
        "c1", (wallet, 95), wallet=95, voucher=0, reholds=(world.rehold("res_1", "res_4", 0),)
    )
    shrunk = world.rehold("res_2", "res_5", 10)
    refusal, done = world.apply(poor, shrunk)
    assert isinstance(refusal, PaymentRequired)
    assert done == CHANGED
    assert world.totals(wallet) == (10, 0, 100)
    assert list(_open(world)) == ["res_5"]
    assert world.problems() == []


def test_a_writer_shrinks_what_another_lane_holds(world: World, other: World, wallet: int) -> None:
    assert other.do(other.rehold("res_1", "res_2", 10)) == CHANGED
    assert world.do(world.rehold("res_2", "res_3", 4)) == CHANGED
    assert world.totals(wallet) == (4, 0, 100)
    assert world.problems() == []


def test_a_rehold_under_a_name_that_is_taken_is_refused(world: World, wallet: int) -> None:
    writer = LedgerWriter(world.database.raw_connection, "writer")
    world.do(world.hold("res_2", (wallet, 5)))
    for into in ("res_2", "res_1"):
        with pytest.raises(Conflict):
            writer.submit(world.rehold("res_1", into, 5))
    writer.close()
    assert sorted(_open(world)) == ["res_1", "res_2"]
    assert world.totals(wallet) == (65, 0, 100)


def test_what_is_reheld_in_a_batch_can_be_reheld_and_released_in_it(
    world: World, wallet: int
) -> None:
    """Whoever was cancelled while it waited may come again before the first of it was applied."""
    outcomes = world.apply(
        world.rehold("res_1", "res_2", 40),
        world.rehold("res_2", "res_3", 30),
        world.rehold("res_2", "res_4", 20),
        world.charge(
            "c1", (wallet, 75), wallet=75, voucher=0, reholds=(world.rehold("res_3", "res_5", 25),)
        ),
    )
    assert outcomes == [CHANGED, CHANGED, UNCHANGED, CHANGED]
    assert list(_open(world)) == ["res_5"]
    assert world.totals(wallet) == (25, 75, 100)
    assert world.problems() == []
    gone = world.apply(
        world.rehold("res_5", "res_6", 20), world.release("res_6"), world.release("res_6")
    )
    assert gone == [CHANGED, CHANGED, UNCHANGED]
    assert world.totals(wallet) == (0, 75, 100)
    assert _open(world) == {}
    # Its writer does not remember what never was: the next one asks anew.
    assert world.do(world.rehold("res_6", "res_7", 1)) == UNCHANGED


# --- a charge out of a reserve ------------------------------------------------------------------------


@pytest.mark.parametrize(("cost", "kept"), [(41, 59), (70, 30), (100, 0), (55, 0)])
def test_a_charge_is_paid_out_of_a_reserve_and_keeps_the_rest_on_hold(
    world: World, wallet: int, cost: int, kept: int
) -> None:
    smaller = world.rehold("res_1", "res_2", kept)
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c1", (wallet, cost), wallet=cost, voucher=0))
    batches = _rows(world)[3]
    call = world.charge("c1", (wallet, cost), wallet=cost, voucher=0, reholds=(smaller,))
    assert world.do(call) == CHANGED
    assert _rows(world)[3] == batches + 1, "in one step"
    assert world.totals(wallet) == (kept, cost, 100)
    assert list(_open(world)) == (["res_2"] if kept else [])
    assert world.problems() == []


def test_what_was_done_for_a_charge_that_is_refused_stays_done(world: World, wallet: int) -> None:
    smaller = world.rehold("res_1", "res_2", 30)
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c1", (wallet, 71), wallet=71, voucher=0, reholds=(smaller,)))
    assert world.totals(wallet) == (30, 0, 100)
    assert list(_open(world)) == ["res_2"]
    with world.database.reading() as session:
        assert legs_of(session, ["c1"]) == {}
    assert world.problems() == []
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c1", (wallet, 71), wallet=71, voucher=0, reholds=(smaller,)))
    assert world.totals(wallet) == (30, 0, 100)


def test_a_charge_shrinks_reserves_of_several_accounts(world: World, wallet: int) -> None:
    grant = world.account("grant:g", 50)
    world.do(world.hold("res_g", (grant, 50)))
    reholds = (world.rehold("res_1", "res_2", 55), world.rehold("res_g", "res_h", 20))
    call = world.charge("c1", (grant, 30), (wallet, 45), voucher=30, wallet=45, reholds=reholds)
    world.do(call)
    assert (world.totals(wallet), world.totals(grant)) == ((55, 45, 100), (20, 30, 50))
    assert world.problems() == []


def test_what_a_reserve_gave_up_is_there_for_the_rest_of_the_batch(
    world: World, wallet: int
) -> None:
    outcomes = world.apply(
        world.charge("c1", (wallet, 50), wallet=50, voucher=0),
        world.charge(
            "c2", (wallet, 50), wallet=50, voucher=0, reholds=(world.rehold("res_1", "res_2", 10),)
        ),
        world.charge("c3", (wallet, 40), wallet=40, voucher=0),
        world.charge("c4", (wallet, 1), wallet=1, voucher=0),
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [PaymentRequired, Done, Done, PaymentRequired]
    assert world.totals(wallet) == (10, 90, 100)


# --- once ---------------------------------------------------------------------------------------------


def test_a_charge_twice_in_one_batch_counts_once(world: World, wallet: int) -> None:
    call = world.charge("c1", (wallet, 10), wallet=10, voucher=0)
    assert world.apply(call, call) == [CHANGED, UNCHANGED]
    assert world.totals(wallet) == (60, 10, 100)


def test_a_charge_that_is_known_still_shrinks_its_reserve(world: World, wallet: int) -> None:
    """The batch has taken the reserve's row, so it must be ended whatever becomes of the charge."""
    plain = world.charge("c1", (wallet, 10), wallet=10, voucher=0)
    smaller = world.rehold("res_1", "res_2", 40)
    with_rehold = world.charge("c1", (wallet, 10), wallet=10, voucher=0, reholds=(smaller,))
    assert world.apply(plain, with_rehold) == [CHANGED, UNCHANGED]
    assert world.totals(wallet) == (40, 10, 100)
    assert list(_open(world)) == ["res_2"]
    assert world.problems() == []


def _together(writer: LedgerWriter, *operations: Operation) -> list[Any]:
    """Submit operations so that they wait together; returns outcomes and errors."""

    async def run() -> list[Any]:
        return await asyncio.gather(
            *(writer.apply(operation) for operation in operations), return_exceptions=True
        )

    return asyncio.run(run())


def test_a_charge_whose_answer_was_lost_is_not_done_twice(
    world: World, wallet: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The connection breaks just after COMMIT, and an archive takes the events meanwhile."""
    writer = LedgerWriter(world.database.raw_connection, "lost")
    lost = lose_an_answer(monkeypatch, lambda: archive(world.database, T0 + 1, tmp_path))
    outcomes = _together(
        writer,
        world.charge("c1", (wallet, 15), wallet=15, voucher=0),
        world.charge(
            "c2", (wallet, 40), wallet=40, voucher=0, reholds=(world.rehold("res_1", "res_2", 45),)
        ),
        world.charge("c3", (wallet, 1), wallet=1, voucher=0),
    )
    writer.close()
    assert lost
    assert [type(outcome) for outcome in outcomes] == [Done, Done, PaymentRequired]
    assert world.totals(wallet) == (45, 55, 100)
    assert list(_open(world)) == ["res_2"]


def test_an_id_that_is_charged_twice_is_a_conflict_for_it_alone(world: World, wallet: int) -> None:
    writer = LedgerWriter(world.database.raw_connection, "writer")
    world.do(world.hold("c0", (wallet, 5)))
    world.do(world.settle("c0", [5], wallet=5, voucher=0))
    writer.submit(world.charge("c1", (wallet, 5), wallet=5, voucher=0))
    spared = world.rehold("res_1", "res_2", 20)
    outcomes = _together(
        writer,
        world.charge("c2", (wallet, 5), wallet=5, voucher=0),
        world.charge("c1", (wallet, 5), wallet=5, voucher=0),
        world.hold("h1", (wallet, 5)),
        world.charge("c0", (wallet, 5), wallet=5, voucher=0, reholds=(spared,)),
        world.charge("c3", (wallet, 61), wallet=61, voucher=0),
        world.charge("c3", (wallet, 5), wallet=5, voucher=0),
    )
    writer.close()
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Done, Conflict, Held, Conflict, PaymentRequired, Done]
    assert world.totals(wallet) == (65, 20, 100)
    assert sorted(_open(world)) == ["h1", "res_1"], "what came with the conflict was taken back"


def test_a_charge_under_the_name_of_a_hold_that_was_given_up(world: World, wallet: int) -> None:
    """The first try under a name held, and was voided; the second had its money promised already."""
    world.do(world.hold("c1", (wallet, 20)))
    world.do(world.release("c1"))
    assert world.do(world.charge("c1", (wallet, 20), wallet=20, voucher=0)) == CHANGED
    with world.database.reading() as session:
        assert [(paid.leg, paid.amount) for paid in legs_of(session, ["c1"])["c1"]] == [(0, 20)]
    assert world.problems() == []


def test_a_late_hold_pays_where_a_charge_was_refused(world: World, wallet: int) -> None:
    with pytest.raises(PaymentRequired):
        world.do(world.charge("c1", (wallet, 50), wallet=50, voucher=0))
    world.do(world.hold("c1~late", (wallet, 40)))
    row = usage("c1", 50, wallet=40)
    assert world.do(world.settle("c1~late", [40], 50, row=row)) == CHANGED
    assert world.totals(wallet) == (60, 40, 100)
    writer = LedgerWriter(world.database.raw_connection, "writer")
    with pytest.raises(Conflict):
        writer.submit(world.charge("c1", (wallet, 0), wallet=0, voucher=0))
    writer.close()


# --- afterwards ---------------------------------------------------------------------------------------


def test_charges_are_archived_like_settlements(
    world: World, wallet: int, other: World, tmp_path: Path
) -> None:
    """A reserve of one month is reheld in the next, by another lane; its charges are on both sides."""
    cut = T0 + 1_000
    smaller = world.rehold("res_1", "res_2", 50, at_us=T0 + 10)
    world.do(world.charge("c1", (wallet, 40), wallet=40, voucher=0))
    world.do(world.charge("c2", (wallet, 8), cost=9, wallet=8, voucher=0, reholds=(smaller,)))
    later = other.rehold("res_2", "res_3", 30, at_us=cut + 1)
    more = {"wallet": 20, "voucher": 0, "at_us": cut + 2}
    row = usage("c3", 20, wallet=20)
    row = tuple(cut + 2 if value == T0 else value for value in row)
    other.do(other.charge("c3", (wallet, 20), reholds=(later,), row=row, **more))
    made = archive(world.database, cut, tmp_path)
    assert made is not None
    assert made.events == 2
    assert made.open == [("res_2", 0, 0, wallet, 50)]
    for folder in (None, tmp_path):
        assert verify(world.database, archive_dir=folder).problems == []
    assert verify(world.database, archive_dir=tmp_path).events == 3
    assert world.do(world.release("res_3")) == CHANGED
    assert world.totals(wallet) == (0, 68, 100)
    assert verify(world.database, archive_dir=tmp_path).problems == []


def test_a_dead_workers_reserve_expires_and_one_from_ahead_is_shortened(
    world: World, wallet: int
) -> None:
    """Its charges from then on have to do with what is there."""
    ahead = T0 + 86_400 * SECOND_US
    world.do(world.rehold("res_1", "res_2", 30))
    world.do(world.hold("res_ahead", (wallet, 20), at_us=ahead))
    world.do(world.hold("reserved", (wallet, 1), at_us=ahead))
    with world.database.reading() as session:
        (renew,) = holds_from_ahead(session, T0, ttl_s=120)
        assert (renew.tx, renew.expires_at_us) == ("res_ahead", T0 + 120 * SECOND_US)
    assert world.do(renew) == CHANGED
    with world.database.reading() as session:
        assert expired_holds(session, T0 + TTL - 1) == []
        overdue = expired_holds(session, T0 + TTL)
    assert sorted(r.tx for r in overdue) == ["res_2", "res_ahead"]
    assert world.apply(*overdue) == [CHANGED, CHANGED]
    assert world.totals(wallet) == (1, 0, 100)
    lost = world.rehold("res_2", "res_3", 10)
    call = world.charge("c1", (wallet, 99), wallet=99, voucher=0, reholds=(lost,))
    assert world.do(call) == CHANGED
    assert world.totals(wallet) == (1, 99, 100)
    assert world.do(world.release("reserved")) == CHANGED


def test_legs_are_kept_as_they_were_asked_for(world: World, wallet: int) -> None:
    grant = world.account("grant:g", 50)
    call = world.charge("c1", (grant, 20), (wallet, 0), (wallet, 10), voucher=20, wallet=10)
    assert call.legs[0] == Leg(grant, 20, world.clearing)
    world.do(call)
    with world.database.reading() as session:
        (paid,) = legs_of(session, ["c1"]).values()
    told = [(p.leg, p.account_id, p.sink_id, p.amount, p.debit_total) for p in paid]
    assert told == [(0, grant, world.clearing, 20, 20), (2, wallet, world.clearing, 10, 10)]
