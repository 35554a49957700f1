"""What happens by itself: popularity is counted on, and finished days are added up beside the calls."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Integer

from catalog.ground.clock import DAY_US, now_us
from catalog.ground.database import Database
from marketplace import housekeeping
from marketplace.housekeeping import Popularity
from marketplace.ledger.tables import UsageEvent


def _event(number: int, listing: str, ended_at_us: int) -> UsageEvent:
    columns = UsageEvent.__table__.columns  # type: ignore[attr-defined]
    plain: dict[str, Any] = {
        c.name: 0 if isinstance(c.type, Integer) else "" for c in columns if not c.nullable
    }
    return UsageEvent(
        **plain
        | {"id": f"gen_{number}", "listing": listing, "ended_at_us": ended_at_us}
        | {"lane": 1, "seq": number}
    )


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    told: list[dict[str, int]] = []
    monkeypatch.setattr(
        Popularity,
        "_note",
        lambda self, _: told.append(dict(sum(self._days.values(), housekeeping.Counter()))),
    )
    return told


def test_popularity_is_counted_day_by_day_and_then_on(
    database: Database, noted: list[dict[str, int]]
) -> None:
    now = now_us()
    with database.session() as session:
        for number, days in enumerate((0.01, 0.02, 3, 29, 40)):
            session.add(_event(number + 1, "acme/writer", now - int(days * DAY_US)))
    popularity = Popularity()
    for _ in range(40):
        popularity(database)
        if noted:
            break
    assert noted == [{"acme/writer": 4}]
    with database.session() as session:
        session.add(_event(9, "acme/other", now_us() - 11_000_000))
    popularity(database)
    assert noted[-1] in ({"acme/writer": 4}, {"acme/writer": 4, "acme/other": 1})
    assert len(noted) == 2


def test_nothing_is_counted_twice(database: Database, noted: list[dict[str, int]]) -> None:
    with database.session() as session:
        session.add(_event(1, "acme/writer", now_us() - 60_000_000))
    popularity = Popularity()
    while len(noted) < 3:
        popularity(database)
    assert noted == [{"acme/writer": 1}] * 3
