"""What must happen by itself: expired holds return, prices and graces that begin or end are seen.

Each errand may run in every replica at once: it finds its work in the database, does it under ids of its
own, and finds nothing to do the second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable

from sqlalchemy import text
from sqlmodel import Session, col, select

from catalog.artifacts.store import ArtifactStore
from catalog.ground.clock import DAY_US, MINUTE_US, SECOND_US, now_us
from catalog.ground.database import Database
from catalog.hub.prune import sweep
from catalog.listings import records, shelf
from catalog.listings.tables import Listing
from marketplace.gateway import answers
from marketplace.ledger.operations import Release, Renew
from marketplace.ledger.sweep import expired_holds, holds_from_ahead
from marketplace.ledger.writer import LedgerWriter
from marketplace.payouts.accruals import accrue, finished_days, mature
from marketplace.prices.tables import PriceVersion
from marketplace.vouchers.leases import lease_all
from marketplace.vouchers.returning import lapse

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
_SHELF_S = 60.0
_MONEY_S = 600.0
_STORE_S = 3600.0
_POPULARITY_US = 30 * DAY_US
_BOOKED_US = 10 * SECOND_US
"""How long after a call's end its usage event is surely there."""
_CALLED = text(
    "SELECT listing, count(*) FROM usage_event "
    "WHERE ended_at_us >= :from_us AND ended_at_us < :until_us GROUP BY listing"
)


async def keep_house(
    database: Database, writer: LedgerWriter, store: ArtifactStore, hold_ttl_s: int
) -> None:
    """Run every errand in its own rhythm until cancelled."""
    await asyncio.gather(
        _sweep(database, writer, hold_ttl_s),
        _every(_SHELF_S, tidy_shelf, database),
        _every(_SHELF_S, Popularity(), database),
        _every(_MONEY_S, settle_time, database),
        _every(_STORE_S, lambda db: _clear_store(db, store), database),
        _every(_STORE_S, forget_answers, database),
    )


async def _sweep(database: Database, writer: LedgerWriter, hold_ttl_s: int) -> None:
    while True:
        with contextlib.suppress(Exception):  # the database is away; holds wait until it is back
            for operation in await asyncio.to_thread(_overdue, database, hold_ttl_s):
                await writer.apply(operation)
        await asyncio.sleep(_SWEEP_S)


def forget_answers(database: Database) -> None:
    """Delete the answers that nobody may ask for any more."""
    while True:
        with database.session() as session:
            if not answers.sweep(session, now_us()):
                return


def _overdue(database: Database, hold_ttl_s: int) -> list[Release | Renew]:
    with database.reading() as session:
        at_us = now_us()
        ahead = holds_from_ahead(session, at_us, hold_ttl_s)
        return [*expired_holds(session, at_us), *ahead]


async def _every(seconds: float, errand: Callable[[Database], None], database: Database) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(errand, database)
        except Exception:
            log.exception("%r failed; it is tried again in %g s", errand, seconds)


def tidy_shelf(database: Database) -> None:
    """Let the search follow prices that began and graces that ended."""
    at_us = now_us()
    with database.session() as session:
        records.end_graces(session)
        started = session.exec(
            select(PriceVersion)
            .where(PriceVersion.effective_from_us > at_us - 3 * MINUTE_US)
            .where(PriceVersion.effective_from_us <= at_us)
        )
        for version in started:
            shelf.reprice(session, version.listing, json.loads(version.components))


class Popularity:
    """How often listings were called in the last 30 days, counted on as calls end.

    Each run reads at most one day more of the usage events and locks nobody; after a start it takes as
    many runs as there are days until the counts are whole, and until then those in the catalogue stay.
    """

    def __init__(self) -> None:
        self._days: dict[int, Counter[str]] = {}
        self._until_us = 0

    def __call__(self, database: Database) -> None:
        """Read on, and note the counts when they are whole."""
        at_us = now_us() - _BOOKED_US
        first = (at_us - _POPULARITY_US) // DAY_US
        self._days = {day: calls for day, calls in self._days.items() if day >= first}
        from_us = max(self._until_us, first * DAY_US)
        until_us = min(at_us, (from_us // DAY_US + 1) * DAY_US)
        with database.reading() as session:
            asked = {"from_us": from_us, "until_us": until_us}
            found = {slug: int(number) for slug, number in session.execute(_CALLED, asked)}
        self._days.setdefault(from_us // DAY_US, Counter()).update(found)
        self._until_us = until_us
        if until_us == at_us:
            self._note(database)

    def _note(self, database: Database) -> None:
        calls: Counter[str] = sum(self._days.values(), Counter())
        with database.session() as session:
            known = session.exec(select(Listing.slug).where(col(Listing.slug).in_(calls)))
            records.count_requests(session, {slug: calls[slug] for slug in known})


def settle_time(database: Database) -> None:
    """Do with money what time asks for: lapsed vouchers go back, tranches are filled, shares mature."""
    for errand in (lapse, lease_all):
        while _some(database, errand):
            pass  # in short transactions, so that no call waits long
    at_us = now_us()
    with database.reading() as session:
        added_up = finished_days(session, at_us)
    with database.session() as session:
        accrue(session, at_us, added_up)
        mature(session, at_us)


def _some(database: Database, errand: Callable[[Session, int], int]) -> int:
    with database.session() as session:
        return errand(session, now_us())


def _clear_store(database: Database, store: ArtifactStore) -> None:
    """Remove what no release, branch or upload refers to any more."""
    sweep(database, store)
