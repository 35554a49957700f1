"""The journal's SQL for `sqlite3`. Lists travel as JSON, so that each statement is prepared once."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
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
    Taken,
    Written,
    decode_legs,
)

_FULL = 2
_LANE = "SELECT next_seq, next_batch, head FROM ledger_lane WHERE id=?"
_TAKE = "DELETE FROM ledger_hold WHERE tx IN (SELECT value FROM json_each(?)) RETURNING tx, legs"
_HOLDS = "SELECT tx, legs, plan FROM ledger_hold WHERE tx IN (SELECT value FROM json_each(?))"
_POSTED = (
    "SELECT tx FROM ledger_transfer WHERE tx IN (SELECT value FROM json_each(?1)) UNION ALL "
    "SELECT tx FROM ledger_archived_tx WHERE tx IN (SELECT value FROM json_each(?1))"
)
_SETTLED = "SELECT id FROM usage_event WHERE id IN (SELECT value FROM json_each(?))"
_LOCKED = f"{ACCOUNTS} IN (SELECT value FROM json_each(?))"
_UPDATE_ACCOUNT = (
    "UPDATE ledger_account SET dr_pending=?, dr_posted=?, cr_pending=?, cr_posted=? WHERE id=?"
)
_RENEW = "UPDATE ledger_hold SET expires_at_us=? WHERE tx=?"
_BATCH = "INSERT INTO ledger_batch (lane, n, first_seq, last_seq, sha256) VALUES (?, ?, ?, ?, ?)"
_HEAD = "UPDATE ledger_lane SET next_seq=?, next_batch=?, head=? WHERE id=?"


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_INSERT_TRANSFER = _insert("ledger_transfer", TRANSFER_COLUMNS)
_INSERT_HOLD = _insert("ledger_hold", HOLD_COLUMNS)
_INSERT_EVENT = _insert("usage_event", EVENT_COLUMNS)


class SqliteDialect:
    """One `sqlite3` connection. BEGIN IMMEDIATE locks everything, so nothing else is locked.

    With `begin` the connection is ours: where it syncs the write-ahead log at each COMMIT (FULL), we
    sync it ourselves from then on (NORMAL), so that a commit can do without. The pragma cannot change
    from one transaction to the next: SQLite acts on it when a statement is prepared, not executed.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._ours = False
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
        self._execute("BEGIN IMMEDIATE")

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
            self._fdatasync(self._log)

    def close(self) -> None:
        self._connection.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def rollback(self) -> None:
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
        lane = self._execute(_LANE, (lane_id,)).fetchone()
        holds = {}
        if ending:
            taken = self._execute(_TAKE, (_list(ending),)).fetchall()
            holds = {tx: decode_legs(legs) for tx, legs in taken}
            accounts = {leg[0] for legs in holds.values() for leg in legs}.union(accounts)
        posted = {tx for (tx,) in self._execute(_POSTED, (_list(posts),))} if posts else set()
        locked = self._execute(_LOCKED, (_list(accounts),)).fetchall() if accounts else []
        return Taken(lane, holds, posted, locked)

    def open_holds(self, txs: Sequence[str]) -> list[tuple[str, str, str]]:
        return list(self._execute(_HOLDS, (_list(txs),)).fetchall())

    def settled(self, event_ids: Sequence[str]) -> set[str]:
        return {event_id for (event_id,) in self._execute(_SETTLED, (_list(event_ids),))}

    def renew(self, tx: str, expires_at_us: int) -> bool:
        return bool(self._execute(_RENEW, (expires_at_us, tx)).rowcount)

    def write(self, rows: Written) -> None:
        many = self._executemany
        if rows.accounts and many(_UPDATE_ACCOUNT, rows.accounts).rowcount != len(rows.accounts):
            raise LedgerCorrupt("An account vanished under its lock.")
        if rows.transfers:
            many(_INSERT_TRANSFER, rows.transfers)
        if rows.holds:
            many(_INSERT_HOLD, rows.holds)
        if rows.events:
            many(_INSERT_EVENT, rows.events)
        if rows.seal is not None:
            lane, n, _, last_seq, head = rows.seal
            self._execute(_BATCH, rows.seal)
            self._execute(_HEAD, (last_seq + 1, n + 1, head, lane))


def _list(items: Collection[Any]) -> str:
    return as_json(items).decode()
