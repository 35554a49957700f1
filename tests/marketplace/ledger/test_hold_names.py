"""The names of a call's holds lead back to the call."""

from __future__ import annotations

from typing import Any

import pytest
from support.ledger_world import T0, World

from catalog.ground.clock import DAY_US, SECOND_US
from catalog.ground.errors import InternalError
from marketplace.ledger.holds import LATE, MOST_TRIES, event_of, names_of, retried
from marketplace.ledger.operations import Release, Renew
from marketplace.ledger.sweep import expired_holds, holds_from_ahead
from marketplace.ledger.writer import LedgerWriter


def test_every_name_leads_back() -> None:
    names = names_of("gen_1")
    assert len(set(names)) == len(names) == 2 * MOST_TRIES
    assert {event_of(name) for name in names} == {"gen_1"}
    assert names[:4] == ["gen_1", "gen_1~late", "gen_1~2", "gen_1~2~late"]
    assert retried("gen_1", 1) == "gen_1"
    assert retried("gen_1", 3) + LATE in names


def test_a_hold_from_a_clock_that_was_ahead_lives_no_longer_than_others(world: World) -> None:
    wallet = world.account("wallet:a", 100)
    writer = LedgerWriter(world.database.raw_connection, "test")
    for tx, later_us in (("gen_1", 0), ("gen_2", DAY_US), ("inv_1", DAY_US)):
        writer.submit(world.hold(tx, (wallet, 10), at_us=T0 + later_us))
    with world.database.reading() as session:
        (renew,) = holds_from_ahead(session, T0, ttl_s=120)
    assert renew == Renew("gen_2", T0 + 120 * SECOND_US)
    writer.submit(renew)
    with world.database.reading() as session:
        overdue = expired_holds(session, T0 + 121 * SECOND_US)
        assert {operation.tx for operation in overdue} == {"gen_1", "gen_2"}
        assert holds_from_ahead(session, T0, ttl_s=120) == []
    for tx in ("gen_1", "gen_2", "inv_1"):
        writer.submit(Release(tx, T0))
    writer.close()


def test_the_writer_outlives_whatever_goes_wrong_in_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet = world.account("wallet:a", 100)
    writer = LedgerWriter(world.database.raw_connection, "test")
    usual = LedgerWriter._durably

    def breaks(self: LedgerWriter, operations: list[Any]) -> Any:
        monkeypatch.setattr(LedgerWriter, "_durably", usual)
        raise ValueError("the clock has gone")

    monkeypatch.setattr(LedgerWriter, "_durably", breaks)
    with pytest.raises(InternalError, match="the clock has gone"):
        writer.submit(world.hold("gen_1", (wallet, 10)))
    writer.submit(world.hold("gen_2", (wallet, 10)))
    writer.submit(Release("gen_2", T0))
    writer.close()
