"""How many workers there are on all machines: what each of them divides the limits by.

Machines know of each other only through the database that they share. Each says every few seconds that it is
there; one that was silent for long counts no more. While one is being missed, the others give less than
they might; while one is new, they give its part away for a moment.
"""

from __future__ import annotations

from sqlalchemy import text

from catalog.ground.database import Database
from catalog.ground.ids import new_id
from marketplace.gateway.tables import GatewayPresence

_TABLE = GatewayPresence.__tablename__
RENEW_S = 2.0
_MISSED_US = 10_000_000
"""Silent for so long, a machine is no longer counted."""

# By the database's clock: those of machines may differ by more than that.
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_HERE = text(
    f"INSERT INTO {_TABLE} (id, workers, seen_at_us) VALUES (:id, :workers, {_NOW}) "
    "ON CONFLICT (id) DO UPDATE SET workers = excluded.workers, seen_at_us = excluded.seen_at_us"
)
_FORGET = text(f"DELETE FROM {_TABLE} WHERE seen_at_us < {_NOW} - {_MISSED_US}")
_ALL = text(f"SELECT sum(workers) FROM {_TABLE}")
_LEAVE = text(f"DELETE FROM {_TABLE} WHERE id = :id")


class Presence:
    """One machine's place among those that serve. On SQLite there is only one."""

    def __init__(self, database: Database, workers: int) -> None:
        self._database = database
        self._workers = workers
        self._id = new_id("office")

    def renew(self) -> int:
        """Say that this machine is there; return how many workers there are on all."""
        if self._database.kind == "sqlite":
            return self._workers
        with self._database.session() as session:
            session.connection().execute(_HERE, {"id": self._id, "workers": self._workers})
            session.connection().execute(_FORGET)
            return int(session.connection().execute(_ALL).scalar_one())

    def leave(self) -> None:
        """Be counted no longer."""
        if self._database.kind != "sqlite":
            with self._database.session() as session:
                session.connection().execute(_LEAVE, {"id": self._id})
