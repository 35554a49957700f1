"""The journal's SQL, once per database. Parameters are positional; rows come back as tuples."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

from marketplace.ledger.chain import GENESIS

_TRANSFER = "lane, seq, tx, leg, kind, code, debit_id, credit_id, amount, debit_total, at_us"
_HOLD = "tx, lane, org_id, legs, plan, held_at_us, expires_at_us"
USAGE_COLUMNS = [
    "id", "org_id", "key_id", "project_id", "listing", "release_digest", "endpoint_id",
    "owner_org_id", "price_version_id", "prices", "started_at_us", "first_token_us",
    "ended_at_us", "input_uncached", "cache_read", "cache_write", "output", "reasoning",
    "usage_source", "outcome", "streamed", "list_cost_u", "cost_u", "wallet_u", "voucher_u",
    "free_u", "overrun_u", "raw_usage", "route", "request_sha256",
]  # fmt: skip
"""The columns of `usage_event` in the order of `Settle.usage`; `lane` and `seq` follow them."""

_INSERTS = {
    "transfer": ("ledger_transfer", _TRANSFER.split(", ")),
    "hold": ("ledger_hold", _HOLD.split(", ")),
    "usage": ("usage_event", [*USAGE_COLUMNS, "lane", "seq"]),
    "batch": ("ledger_batch", ["lane", "n", "first_seq", "last_seq", "sha256"]),
}
_OPEN_LANE = (
    f"INSERT INTO ledger_lane (name, opened_at_us, next_seq, next_batch, head) "
    f"VALUES (?, ?, 1, 1, '{GENESIS}') ON CONFLICT (name) DO NOTHING"
)
_LANE_ID = "SELECT id FROM ledger_lane WHERE name=?"
_ACCOUNT_ID = "SELECT id FROM ledger_account WHERE code=?"
_ACCOUNTS = (
    # A projection has no balance to guard, so it is not locked: everybody passes through clearing.
    "SELECT id, rule, dr_pending, dr_posted, cr_pending, cr_posted FROM ledger_account "
    "WHERE rule <> 0 AND id"
)
_UPDATE_ACCOUNT = (
    "UPDATE ledger_account SET dr_pending=?, dr_posted=?, cr_pending=?, cr_posted=? WHERE id=?"
)


class Dialect(Protocol):
    """What the journal needs of a driver connection."""

    def begin(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def open_lane(self, name: str, at_us: int) -> int: ...
    def account_id(self, code: str) -> int | None: ...
    def lane(self, lane_id: int) -> tuple[int, int, str]: ...
    def take_holds(self, txs: Sequence[str]) -> list[tuple[str, str]]: ...
    def open_holds(self, txs: Sequence[str]) -> list[tuple[str, str, str]]: ...
    def posted(self, txs: Sequence[str]) -> set[str]: ...
    def settled(self, event_ids: Sequence[str]) -> set[str]: ...
    def lock_accounts(self, ids: Iterable[int]) -> list[tuple[int, int, int, int, int, int]]: ...
    def update_accounts(self, rows: Sequence[Sequence[int]]) -> int: ...
    def insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None: ...
    def renew(self, tx: str, expires_at_us: int) -> bool: ...
    def seal(self, batch: tuple[int, int, int, int, str]) -> None: ...


class SqliteDialect:
    """`sqlite3` connections. Lists travel as JSON, so that each statement is prepared once."""

    _insert: ClassVar = {
        name: f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        for name, (table, columns) in _INSERTS.items()
    }

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._execute = connection.execute

    def begin(self) -> None:
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def open_lane(self, name: str, at_us: int) -> int:
        self._execute(_OPEN_LANE, (name, at_us))
        return int(self._execute(_LANE_ID, (name,)).fetchone()[0])

    def account_id(self, code: str) -> int | None:
        found = self._execute(_ACCOUNT_ID, (code,)).fetchone()
        return found and int(found[0])

    def lane(self, lane_id: int) -> tuple[int, int, str]:
        sql = "SELECT next_seq, next_batch, head FROM ledger_lane WHERE id=?"
        next_seq, next_batch, head = self._execute(sql, (lane_id,)).fetchone()
        return next_seq, next_batch, head

    def take_holds(self, txs: Sequence[str]) -> list[tuple[str, str]]:
        sql = "DELETE FROM ledger_hold WHERE tx IN (SELECT value FROM json_each(?)) RETURNING tx, legs"
        return list(self._execute(sql, (json.dumps(txs),)).fetchall())

    def open_holds(self, txs: Sequence[str]) -> list[tuple[str, str, str]]:
        sql = "SELECT tx, legs, plan FROM ledger_hold WHERE tx IN (SELECT value FROM json_each(?))"
        return list(self._execute(sql, (json.dumps(txs),)).fetchall())

    def posted(self, txs: Sequence[str]) -> set[str]:
        sql = (
            "SELECT tx FROM ledger_transfer WHERE tx IN (SELECT value FROM json_each(?)) UNION ALL "
            "SELECT tx FROM ledger_archived_tx WHERE tx IN (SELECT value FROM json_each(?))"
        )
        listed = json.dumps(txs)
        return {tx for (tx,) in self._execute(sql, (listed, listed))}

    def settled(self, event_ids: Sequence[str]) -> set[str]:
        sql = "SELECT id FROM usage_event WHERE id IN (SELECT value FROM json_each(?))"
        return {event_id for (event_id,) in self._execute(sql, (json.dumps(event_ids),))}

    def lock_accounts(self, ids: Iterable[int]) -> list[tuple[int, int, int, int, int, int]]:
        # BEGIN IMMEDIATE has locked everything already.
        sql = f"{_ACCOUNTS} IN (SELECT value FROM json_each(?))"
        return list(self._execute(sql, (json.dumps(list(ids)),)).fetchall())

    def update_accounts(self, rows: Sequence[Sequence[int]]) -> int:
        return int(self._connection.executemany(_UPDATE_ACCOUNT, rows).rowcount)

    def insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(self._insert[table], rows)

    def renew(self, tx: str, expires_at_us: int) -> bool:
        sql = "UPDATE ledger_hold SET expires_at_us=? WHERE tx=?"
        return bool(self._execute(sql, (expires_at_us, tx)).rowcount)

    def seal(self, batch: tuple[int, int, int, int, str]) -> None:
        lane, n, _, last_seq, head = batch
        self._execute(self._insert["batch"], batch)
        sql = "UPDATE ledger_lane SET next_seq=?, next_batch=?, head=? WHERE id=?"
        self._execute(sql, (last_seq + 1, n + 1, head, lane))


class PostgresDialect:
    """`psycopg` connections. Rows are locked in the order of their ids, so no two writers deadlock.

    New rows go in by COPY, a table at a time: it costs the server less than half of as many INSERTs,
    and a batch needs one round trip a table however long it is.
    """

    _update_accounts = (
        "UPDATE ledger_account AS a SET dr_pending=v.b, dr_posted=v.c, cr_pending=v.d, cr_posted=v.e "
        "FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::int[]) "
        "AS v(b, c, d, e, id) WHERE a.id = v.id"
    )
    _copies: ClassVar = {
        name: f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        for name, (table, columns) in _INSERTS.items()
    }

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor = connection.cursor()

    def begin(self) -> None:
        self._cursor.execute("BEGIN")

    def commit(self) -> None:
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        if not self._connection.closed:
            self._connection.rollback()

    def open_lane(self, name: str, at_us: int) -> int:
        self._cursor.execute(_OPEN_LANE.replace("?", "%s"), (name, at_us))
        return int(self._cursor.execute(_LANE_ID.replace("?", "%s"), (name,)).fetchone()[0])

    def account_id(self, code: str) -> int | None:
        found = self._cursor.execute(_ACCOUNT_ID.replace("?", "%s"), (code,)).fetchone()
        return found and int(found[0])

    def lane(self, lane_id: int) -> tuple[int, int, str]:
        sql = "SELECT next_seq, next_batch, head FROM ledger_lane WHERE id=%s FOR UPDATE"
        next_seq, next_batch, head = self._cursor.execute(sql, (lane_id,)).fetchone()
        return next_seq, next_batch, head

    def take_holds(self, txs: Sequence[str]) -> list[tuple[str, str]]:
        sql = (
            "WITH ending AS (SELECT tx FROM ledger_hold WHERE tx = ANY(%s) ORDER BY tx FOR UPDATE) "
            "DELETE FROM ledger_hold AS h USING ending WHERE h.tx = ending.tx RETURNING h.tx, h.legs"
        )
        return list(self._cursor.execute(sql, (list(txs),)).fetchall())

    def open_holds(self, txs: Sequence[str]) -> list[tuple[str, str, str]]:
        sql = "SELECT tx, legs, plan FROM ledger_hold WHERE tx = ANY(%s)"
        return list(self._cursor.execute(sql, (list(txs),)).fetchall())

    def posted(self, txs: Sequence[str]) -> set[str]:
        sql = (
            "SELECT tx FROM ledger_transfer WHERE tx = ANY(%s) UNION ALL "
            "SELECT tx FROM ledger_archived_tx WHERE tx = ANY(%s)"
        )
        return {tx for (tx,) in self._cursor.execute(sql, (list(txs), list(txs))).fetchall()}

    def settled(self, event_ids: Sequence[str]) -> set[str]:
        sql = "SELECT id FROM usage_event WHERE id = ANY(%s)"
        return {
            event_id for (event_id,) in self._cursor.execute(sql, (list(event_ids),)).fetchall()
        }

    def lock_accounts(self, ids: Iterable[int]) -> list[tuple[int, int, int, int, int, int]]:
        sql = f"{_ACCOUNTS} = ANY(%s) ORDER BY id FOR NO KEY UPDATE"
        return list(self._cursor.execute(sql, (sorted(ids),)).fetchall())

    def update_accounts(self, rows: Sequence[Sequence[int]]) -> int:
        columns = [f"{{{','.join(map(str, column))}}}" for column in zip(*rows, strict=True)]
        return int(self._cursor.execute(self._update_accounts, columns).rowcount)

    def insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._cursor.copy(self._copies[table]) as copying:
            copying.write("".join(["\t".join(map(_copied, row)) + "\n" for row in rows]))

    def renew(self, tx: str, expires_at_us: int) -> bool:
        sql = "UPDATE ledger_hold SET expires_at_us=%s WHERE tx=%s"
        return bool(self._cursor.execute(sql, (expires_at_us, tx)).rowcount)

    def seal(self, batch: tuple[int, int, int, int, str]) -> None:
        sql = (
            "WITH sealed AS (INSERT INTO ledger_batch (lane, n, first_seq, last_seq, sha256) "
            "VALUES (%s, %s, %s, %s, %s) RETURNING *) UPDATE ledger_lane AS l SET "
            "next_seq=s.last_seq+1, next_batch=s.n+1, head=s.sha256 FROM sealed AS s WHERE l.id=s.lane"
        )
        self._cursor.execute(sql, batch)


def _copied(value: Any) -> str:
    """Return a field in COPY's text form."""
    if value.__class__ is not str:
        return "\\N" if value is None else str(value)
    if "\\" in value or not value.isprintable():
        for plain, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
            value = value.replace(plain, escaped)
    return str(value)


def dialect_of(connection: Any) -> Dialect:
    """Return the dialect for a driver connection, by the module that made it."""
    if isinstance(connection, sqlite3.Connection):
        return SqliteDialect(connection)
    return PostgresDialect(connection)
