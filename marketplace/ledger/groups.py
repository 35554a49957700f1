"""Read the journal as it was written: batch by batch, lane after lane, never more than one in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from marketplace.ledger.dialect import EVENT_COLUMNS, TRANSFER_COLUMNS

Row = tuple[Any, ...]

_TRANSFERS = f"SELECT {', '.join(TRANSFER_COLUMNS)} FROM ledger_transfer ORDER BY lane, seq"
_EVENTS = f"SELECT {', '.join(EVENT_COLUMNS)} FROM usage_event ORDER BY lane, seq"
_BATCHES = "SELECT lane, n, first_seq, last_seq, sha256 FROM ledger_batch ORDER BY lane, n"
_PAGE = 2_000


class Group(NamedTuple):
    """One batch and the rows it chains, in `TRANSFER_COLUMNS` and `EVENT_COLUMNS`, by their `seq`."""

    lane: int
    n: int
    first_seq: int
    last_seq: int
    sha256: str
    transfers: list[Row]
    events: list[Row]


class Stray(NamedTuple):
    """A row that no batch chains."""

    lane: int
    seq: int


def stream(connection: Connection, sql: str) -> Iterator[Row]:
    """Yield the rows of a query as plain tuples, a page at a time, without SQLAlchemy's wrapping."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        # A named cursor stays on the server; a plain one would load the whole journal.
        cursor = driver.cursor(name=f"walk_{abs(hash(sql))}")
    else:
        cursor = driver.cursor()
    try:
        cursor.execute(sql)
        while page := cursor.fetchmany(_PAGE):
            yield from page
    finally:
        cursor.close()


def archived_through(connection: Connection) -> dict[int, tuple[int, int, str]]:
    """Return, by lane, the last batch, its last row and its hash that went into an archive."""
    rows = connection.execute(
        text("SELECT lane, last_n, last_seq, head FROM ledger_archived_lane ORDER BY archive_id")
    )
    return {lane: (n, seq, head) for lane, n, seq, head in rows}


def live_groups(connection: Connection) -> Iterator[Group | Stray]:
    """Yield what the database holds beyond its archives; rows that wait to be pruned are skipped."""
    through = {lane: seq for lane, (_, seq, _) in archived_through(connection).items()}
    transfers, events = stream(connection, _TRANSFERS), stream(connection, _EVENTS)
    transfer, event = next(transfers, None), next(events, None)
    for lane, n, first_seq, last_seq, sha256 in stream(connection, _BATCHES):
        done = through.get(lane, 0)
        old = last_seq <= done
        chained: list[Row] = []
        used: list[Row] = []
        while transfer is not None and transfer[:2] <= (lane, last_seq):
            if transfer[0] == lane and transfer[1] >= first_seq:
                chained.append(transfer)
            elif transfer[1] > through.get(transfer[0], 0):
                yield Stray(*transfer[:2])
            transfer = next(transfers, None)
        while event is not None and event[-2:] <= (lane, last_seq):
            if event[-2] == lane and event[-1] >= first_seq:
                used.append(event)
            elif event[-1] > through.get(event[-2], 0):
                yield Stray(*event[-2:])
            event = next(events, None)
        if not old:
            yield Group(lane, n, first_seq, last_seq, sha256, chained, used)
    while transfer is not None:
        if transfer[1] > through.get(transfer[0], 0):
            yield Stray(*transfer[:2])
        transfer = next(transfers, None)
    while event is not None:
        if event[-1] > through.get(event[-2], 0):
            yield Stray(*event[-2:])
        event = next(events, None)
