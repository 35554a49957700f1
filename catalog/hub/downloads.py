"""Counting downloads without a write per download: sums in memory, written every few seconds.

What a killed process had not written yet is lost; the number is for popularity, not for money.
"""

from __future__ import annotations

import threading

from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from catalog.ground.clock import SECOND_US, Clock
from catalog.ground.database import Database
from catalog.hub.tables import Repo

FLUSH_US = 5 * SECOND_US


class DownloadCounter:
    """Sums by repository id; `count` may be called from any thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._sums: dict[str, int] = {}
        self._flushed_at_us = clock()

    def count(self, repo_id: str) -> None:
        """Add one, and write the sums when it is time."""
        with self._lock:
            self._sums[repo_id] = self._sums.get(repo_id, 0) + 1
            due = self._clock() - self._flushed_at_us >= FLUSH_US
        if due:
            self.flush()

    def flush(self) -> None:
        """Write what has been counted; call it once more when the server stops."""
        with self._lock:
            sums, self._sums = self._sums, {}
            self._flushed_at_us = self._clock()
        if not sums:
            return
        try:
            with self._database.session() as session:
                for repo_id, count in sorted(sums.items()):
                    more = {"downloads": col(Repo.downloads) + count}
                    session.execute(update(Repo).where(col(Repo.id) == repo_id).values(more))
        except SQLAlchemyError:  # locked, full, away: the download goes on, the count waits
            with self._lock:
                for repo_id, count in sums.items():
                    self._sums[repo_id] = self._sums.get(repo_id, 0) + count
