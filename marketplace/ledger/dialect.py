"""What the journal asks of a database, and the columns that both databases write.

The SQL is in `dialect_sqlite` and `dialect_postgres`. A batch is two steps: `take` reads and locks, the
journal decides, `write` writes; on PostgreSQL each step is one round trip.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from marketplace.ledger.chain import GENESIS

TRANSFER_COLUMNS = [
    "lane", "seq", "tx", "leg", "kind", "code", "debit_id", "credit_id", "amount", "debit_total",
    "at_us",
]  # fmt: skip
"""The columns of `ledger_transfer` in the order of the chain."""
USAGE_COLUMNS = [
    "id", "org_id", "key_id", "project_id", "listing", "release_digest", "endpoint_id",
    "owner_org_id", "price_version_id", "prices", "started_at_us", "first_token_us",
    "ended_at_us", "input_uncached", "cache_read", "cache_write", "output", "reasoning",
    "usage_source", "outcome", "streamed", "list_cost_u", "cost_u", "wallet_u", "voucher_u",
    "free_u", "overrun_u", "raw_usage", "route", "request_sha256",
]  # fmt: skip
"""The columns of `usage_event` in the order of `Settle.usage`; `lane` and `seq` follow them."""
EVENT_COLUMNS = [*USAGE_COLUMNS, "lane", "seq"]
"""The columns of `usage_event` in the order of the chain."""
HOLD_COLUMNS = ["tx", "lane", "org_id", "legs", "plan", "held_at_us", "expires_at_us"]

OPEN_LANE = (
    "INSERT INTO ledger_lane (name, opened_at_us, next_seq, next_batch, head) "
    f"VALUES (?, ?, 1, 1, '{GENESIS}') ON CONFLICT (name) DO NOTHING"
)
LANE_ID = "SELECT id FROM ledger_lane WHERE name=?"
ACCOUNT_ID = "SELECT id FROM ledger_account WHERE code=?"
ACCOUNTS = (
    # A projection has no balance to guard, so it is not locked: everybody passes through clearing.
    "SELECT id, rule, dr_pending, dr_posted, cr_pending, cr_posted FROM ledger_account "
    "WHERE rule <> 0 AND id"
)

Legs = Sequence[tuple[int, int, int]]
"""A hold's promises: (account_id, amount, sink_id)."""
decode_legs = msgspec.json.Decoder(list[tuple[int, int, int]]).decode


Totals = dict[int, list[int]]
"""Bounded accounts by id: [rule, dr_pending, dr_posted, cr_pending, cr_posted]."""


class Taken(NamedTuple):
    """What a batch finds: the lane's next row, next batch and head; the holds it ends, which are gone
    from now on, by tx; which of its posts are known; at least every bounded account it touches, locked.

    The batch counts in `accounts` itself: what a dialect keeps of it must be forgotten on rollback.
    """

    lane: tuple[int, int, str]
    holds: dict[str, Legs]
    posted: set[str]
    accounts: Totals


class Written(NamedTuple):
    """What a batch leaves.

    `accounts` are (dr_pending, dr_posted, cr_pending, cr_posted, id), in the order of their ids. The rows
    of the chain come twice, as tuples and as the JSON that was chained. `promised` are the legs of the
    new `holds`, by tx. `seal` is the row of `ledger_batch` (lane, n, first_seq, last_seq, sha256); None
    when nothing was chained.
    """

    accounts: Sequence[tuple[int, ...]]
    transfers: Sequence[tuple[Any, ...]]
    transfers_json: bytes
    holds: Sequence[tuple[Any, ...]]
    promised: Mapping[str, Legs]
    events: Sequence[tuple[Any, ...]]
    events_json: bytes
    seal: tuple[int, int, int, int, str] | None


class Dialect(Protocol):
    """What the journal needs of a driver connection. Rows come back as tuples.

    Inside somebody else's transaction only `take` to `write` are used. Between `begin` and `commit`
    errors of `write` may come as late as `commit`. What is committed without `durable` survives the
    process, and a power cut only once something durable has been committed after it.
    """

    def begin(self) -> None: ...
    def commit(self, *, durable: bool = True) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...
    def open_lane(self, name: str, at_us: int) -> int: ...
    def account_id(self, code: str) -> int | None: ...
    def take(
        self, lane_id: int, ending: Sequence[str], posts: Sequence[str], accounts: Collection[int]
    ) -> Taken: ...
    def head(self, lane_id: int) -> str:
        """Return the lane's head, when nobody else is about to change it."""

    def is_held(self, lane_id: int, tx: str, at_us: int) -> bool:
        """Return whether the hold that this lane made at that instant is open."""

    def settled(self, event_ids: Sequence[str]) -> set[str]: ...
    def renew(self, tx: str, expires_at_us: int) -> bool: ...
    def write(self, rows: Written) -> None: ...


def dialect_of(connection: Any) -> Dialect:
    """Return the dialect for a driver connection, by the module that made it."""
    if isinstance(connection, sqlite3.Connection):
        from marketplace.ledger.dialect_sqlite import SqliteDialect

        return SqliteDialect(connection)
    from marketplace.ledger.dialect_postgres import PostgresDialect

    return PostgresDialect(connection)
