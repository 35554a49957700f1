"""The journal's SQL for `sqlite3`. Lists travel as JSON, so that each statement is prepared once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from typing import Any

from catalog.ground.errors import LedgerCorrupt
from marketplace.ledger.chain import as_json
from marketplace.ledger.dialect import (
    ACCOUNT_ID,
    ACCOUNTS,
    EVENT_COLUMNS,
    HOLD_COLUMNS,
    LANE_ID,
    OPEN_LANE,
    TRANSFER_COLUMNS,
    Legs,
    Taken,
    Totals,
    Written,
    decode_legs,
)

_FULL = 2
_MOST_KEPT = 16_384
"""Accounts and open holds that a writer remembers: some megabytes of them."""
_MOST_ROWS = 16
"""Rows a statement: more save nothing, and each number of them is a statement of its own."""
_MOST_MS_TO_EMPTY = 1_000
"""How long readers may be in the way when the log is to be emptied."""
_holed: set[str] = set()
"""Logs of which a sync has failed in this process, and which may have a hole on disk since then."""
_VERSION = "PRAGMA data_version"
_LANE = "SELECT next_seq, next_batch, head FROM ledger_lane WHERE id=?"
_TAKE = "DELETE FROM ledger_hold WHERE tx IN (SELECT value FROM json_each(?)) RETURNING tx, legs"
_END = "DELETE FROM ledger_hold WHERE tx IN ({})"
_POSTED = (
    "SELECT tx FROM ledger_transfer WHERE tx IN (SELECT value FROM json_each(?1)) UNION ALL "
    "SELECT tx FROM ledger_archived_tx WHERE tx IN (SELECT value FROM json_each(?1))"
)
_SETTLED = "SELECT id FROM usage_event WHERE id IN (SELECT value FROM json_each(?))"
_LOCKED = f"{ACCOUNTS} IN (SELECT value FROM json_each(?))"
_UPDATE_ACCOUNT = (
    "UPDATE ledger_account SET dr_pending=?, dr_posted=?, cr_pending=?, cr_posted=? WHERE id=?"
)
_IS_HELD = "SELECT 1 FROM ledger_hold WHERE tx=? AND lane=? AND held_at_us=?"
_RENEW = "UPDATE ledger_hold SET expires_at_us=? WHERE tx=?"
# The lane's row follows by a trigger.
_BATCH = "INSERT INTO ledger_batch (lane, n, first_seq, last_seq, sha256) VALUES (?, ?, ?, ?, ?)"


class _Insert:
    """INSERT of many rows, several a statement: it saves a third of what `executemany` takes.

    It also gives the event loop's thread fewer occasions to get between: the driver lets go of the
    interpreter with every row of `executemany`.
    """

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        row = f"({', '.join('?' * len(columns))})"
        head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
        self._statements = [head + ", ".join([row] * n) for n in range(_MOST_ROWS + 1)]

    def run(self, execute: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert the rows."""
        count = len(rows)
        if count == 1:
            execute(self._statements[1], rows[0])
            return
        for start in range(0, count, _MOST_ROWS):
            some = rows[start : start + _MOST_ROWS]
            execute(self._statements[len(some)], list(chain.from_iterable(some)))


_TRANSFERS = _Insert("ledger_transfer", TRANSFER_COLUMNS)
_NEW_HOLDS = _Insert("ledger_hold", HOLD_COLUMNS)
_EVENTS = _Insert("usage_event", EVENT_COLUMNS)
_ENDS = [_END.format(", ".join("?" * n)) for n in range(_MOST_ROWS + 1)]


class SqliteDialect:
    """One `sqlite3` connection. BEGIN IMMEDIATE locks everything, so nothing else is locked.

    With `begin` the connection is ours: where it syncs the write-ahead log at each COMMIT (FULL), we
    sync it ourselves from then on (NORMAL), so that a commit can do without. The pragma cannot change
    from one transaction to the next: SQLite acts on it when a statement is prepared, not executed.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._ours = False
        self._version: int | None = None
        """The database's version at which the lane and the accounts were as they are kept here."""
        self._lane_id = 0
        self._lane: tuple[int, int, str] | None = None
        self._totals: Totals = {}
        self._unbounded: set[int] = set()
        """Accounts that have no totals: projections, and those that do not exist."""
        self._promised: dict[str, Legs] = {}
        """The legs of open holds that we have made. They never change; whether a hold is still open is
        asked of its row."""
        self._log_path = ""
        self._log: int | None = None
        """The log's file descriptor, once it is ours to sync."""
        self._execute = connection.execute
        self._executemany = connection.executemany
        # A connection may bring its own, which is how a trace hears of it.
        self._fdatasync = getattr(connection, "fdatasync", os.fdatasync)

    def begin(self) -> None:
        if not self._ours:
            self._take_over()
        if self._log_path in _holed:
            self._empty_log()
        self._execute("BEGIN IMMEDIATE")

    def _empty_log(self) -> None:
        """Bring all that is in the log into the database, and begin the log anew.

        The system tells of a failed sync once, and takes what it could not write for written: later syncs do
        well, and a power cut would take everything from there on. What it has read back is what was written.
        """
        (patience_ms,) = self._execute("PRAGMA busy_timeout").fetchone()
        self._execute(f"PRAGMA busy_timeout = {_MOST_MS_TO_EMPTY}")
        busy, _, _ = self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._execute(f"PRAGMA busy_timeout = {patience_ms}")
        if busy:
            raise sqlite3.OperationalError("a log that could not be synced is being read")
        _holed.discard(self._log_path)

    def _take_over(self) -> None:
        self._ours = True
        (sync,) = self._execute("PRAGMA synchronous").fetchone()
        (mode,) = self._execute("PRAGMA journal_mode").fetchone()
        if sync == _FULL and mode == "wal":
            _, _, path = self._execute("PRAGMA database_list").fetchone()
            self._log_path = f"{path}-wal"
            self._execute("PRAGMA synchronous = NORMAL")

    def commit(self, *, durable: bool = True) -> None:
        self._execute("COMMIT")
        if durable and self._log_path:
            if self._log is None:
                # It is there by now, and the same file for as long as anybody is connected.
                self._log = os.open(self._log_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._fdatasync(self._log)
            except OSError:
                _holed.add(self._log_path)
                raise

    def close(self) -> None:
        self._connection.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def rollback(self) -> None:
        self._lane, self._version, self._promised = None, None, {}
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def open_lane(self, name: str, at_us: int) -> int:
        self._execute(OPEN_LANE, (name, at_us))
        return int(self._execute(LANE_ID, (name,)).fetchone()[0])

    def account_id(self, code: str) -> int | None:
        found = self._execute(ACCOUNT_ID, (code,)).fetchone()
        return found and int(found[0])

    def take(
        self, lane_id: int, ending: Sequence[str], posts: Sequence[str], accounts: Collection[int]
    ) -> Taken:
        self._look_around(lane_id)
        holds = self._end(ending) if ending else {}
        posted = {tx for (tx,) in self._execute(_POSTED, (_list(posts),))} if posts else set()
        totals, unbounded = self._totals, self._unbounded
        unknown = [a for a in accounts if a not in totals and a not in unbounded]
        for legs in holds.values():
            for account_id, _, _ in legs:
                if account_id not in totals:
                    unknown.append(account_id)
        if unknown:
            for account_id, *row in self._execute(_LOCKED, (_list(unknown),)).fetchall():
                totals[account_id] = row
            unbounded.update(a for a in unknown if a not in totals)
        lane = self._lane
        if lane is None:
            lane = self._execute(_LANE, (lane_id,)).fetchone()
        return Taken(lane, holds, posted, totals)

    def _look_around(self, lane_id: int) -> None:
        """Forget what somebody else may have changed since our last transaction.

        Within a transaction SQLite's `data_version` is another one when another connection has committed
        anything since we looked. Inside somebody else's transaction nothing is known beforehand, because
        the rest of it writes on this connection.
        """
        version = self._execute(_VERSION).fetchone()[0] if self._ours else None
        if version is None or version != self._version or lane_id != self._lane_id:
            self._lane, self._lane_id, self._version = None, lane_id, version
            self._totals, self._unbounded = {}, set()
        elif len(self._totals) + len(self._unbounded) > _MOST_KEPT:
            self._totals, self._unbounded = {}, set()

    def _end(self, ending: Sequence[str]) -> dict[str, Legs]:
        """Delete the rows of these holds; return the legs of those that were there."""
        own = self._own(ending) if self._ours else None
        if own is not None:
            gone = 0
            for start in range(0, len(ending), _MOST_ROWS):
                some = ending[start : start + _MOST_ROWS]
                gone += self._execute(_ENDS[len(some)], some).rowcount
            if gone == len(own):
                return own
            if not gone:
                return {}
            # Somebody else has ended one of them, and which one is no longer to be seen.
            self._execute("ROLLBACK")
            self._execute("BEGIN IMMEDIATE")
            self._look_around(self._lane_id)
        taken = self._execute(_TAKE, (_list(ending),)).fetchall()
        return {tx: decode_legs(legs) for tx, legs in taken}

    def _own(self, ending: Sequence[str]) -> dict[str, Legs] | None:
        """Return the legs of these holds; None unless we have opened them all ourselves."""
        pop = self._promised.pop
        try:
            return {tx: pop(tx) for tx in ending}
        except KeyError:
            return None

    def head(self, lane_id: int) -> str:
        return str(self._execute(_LANE, (lane_id,)).fetchone()[2])

    def is_held(self, lane_id: int, tx: str, at_us: int) -> bool:
        return self._execute(_IS_HELD, (tx, lane_id, at_us)).fetchone() is not None

    def settled(self, event_ids: Sequence[str]) -> set[str]:
        return {event_id for (event_id,) in self._execute(_SETTLED, (_list(event_ids),))}

    def renew(self, tx: str, expires_at_us: int) -> bool:
        return bool(self._execute(_RENEW, (expires_at_us, tx)).rowcount)

    def write(self, rows: Written) -> None:
        accounts = rows.accounts
        if accounts:
            if len(accounts) == 1:
                changed = self._execute(_UPDATE_ACCOUNT, accounts[0]).rowcount
            else:
                changed = self._executemany(_UPDATE_ACCOUNT, accounts).rowcount
            if changed != len(accounts):
                raise LedgerCorrupt("An account vanished under its lock.")
        if rows.transfers:
            _TRANSFERS.run(self._execute, rows.transfers)
        if rows.holds:
            _NEW_HOLDS.run(self._execute, rows.holds)
            if len(self._promised) > _MOST_KEPT:
                self._promised = {}
            self._promised.update(rows.promised)
        if rows.events:
            _EVENTS.run(self._execute, rows.events)
        if rows.seal is not None:
            _, n, _, last_seq, head = rows.seal
            self._execute(_BATCH, rows.seal)
            self._lane = (last_seq + 1, n + 1, head)


def _list(items: Collection[Any]) -> str:
    return as_json(items).decode()
