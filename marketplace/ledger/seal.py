"""What the database keeps of an archived stretch of the journal, and how that is sealed.

A seal is the SHA-256 over everything kept: the file's hash, each lane's last link, each account's totals
and the promises that reach over the cut. A transfer named after it stands in the journal, so whoever
edits a total has to break the chain; each seal names the one before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from marketplace.ledger.replay import Replay

PROMISED, ENDED, RELEASED = range(3)
"""Half of a promise: made before the cut, or posted or released before it by another lane."""


class Sealed(NamedTuple):
    """One archive. `lanes`: (lane, last_n, last_seq, head); `totals`: (account_id, debits, credits,
    segments); `open`: (tx, leg, half, account_id, amount)."""

    number: int
    name: str
    sha256: str
    previous: str
    before_us: int
    sealed_at_us: int
    transfers: int
    events: int
    lanes: list[tuple[int, int, int, str]]
    totals: list[tuple[int, int, int, str]]
    open: list[tuple[str, int, int, int, int]]

    @property
    def seal(self) -> str:
        """The SHA-256 over all of it (hex)."""
        return hashlib.sha256(json.dumps(self, separators=(",", ":")).encode()).hexdigest()

    @property
    def tx(self) -> str:
        """The id of the transfer that chains the seal."""
        return f"archive:{self.seal}"

    def is_chained(self, connection: Connection) -> bool:
        """Return whether the journal holds this seal, itself or by the archive after it."""
        found = connection.execute(
            text(
                "SELECT 1 FROM ledger_transfer WHERE tx = :tx UNION ALL "
                "SELECT 1 FROM ledger_archive WHERE number = :next AND previous = :seal"
            ),
            {"tx": self.tx, "next": self.number + 1, "seal": self.seal},
        )
        return found.first() is not None

    def begin(self, replay: Replay) -> None:
        """Put the archived totals and half promises into a replay, in place of their rows."""
        for account_id, debits, credits, segments in self.totals:
            replay.open_with(account_id, debits, credits, json.loads(segments))
        for tx, leg, half, account_id, amount in self.open:
            if half == PROMISED:
                replay.promise(tx, leg, account_id, amount)
            else:
                replay.end(tx, leg, account_id, amount, whole=half == RELEASED)


def halves(replay: Replay) -> list[tuple[str, int, int, int, int]]:
    """Return the promises that a stretch made and did not end, or ended and did not make."""
    made = [(tx, leg, PROMISED, *promise) for (tx, leg), promise in replay.promised.items()]
    ended = [
        (tx, leg, RELEASED if whole else ENDED, account_id, amount)
        for (tx, leg), (account_id, amount, whole) in replay.ended_first.items()
    ]
    return sorted(made + ended)


def sealed_archives(connection: Connection) -> list[Sealed]:
    """Return every archive, oldest first."""
    archives: list[Sealed] = []
    rows = connection.execute(
        text(
            "SELECT number, name, sha256, previous, before_us, sealed_at_us, transfers, events, open "
            "FROM ledger_archive ORDER BY number"
        )
    ).all()
    row: Any
    for *row, half_promises in rows:
        lanes = _all(
            connection,
            "SELECT lane, last_n, last_seq, head FROM ledger_archived_lane "
            "WHERE archive_id = :number ORDER BY lane",
            row[0],
        )
        totals = _all(
            connection,
            "SELECT account_id, debits, credits, segments FROM ledger_rollup "
            "WHERE archive_id = :number ORDER BY account_id",
            row[0],
        )
        open_ = [tuple(half) for half in json.loads(half_promises)]
        archives.append(Sealed._make([*row, lanes, totals, open_]))
    return archives


def _all(connection: Connection, sql: str, number: int) -> list[Any]:
    return [tuple(row) for row in connection.execute(text(sql), {"number": number})]


def recompute_rollup(replay: Replay, archives: Sequence[Sealed]) -> Iterator[str]:
    """Yield where the totals kept of these archives differ from their rows, just replayed."""
    kept = Replay({})
    for archive in archives:
        archive.begin(kept)
    for account_id in sorted(replay.debits.keys() | replay.credits.keys() | kept.debits.keys()):
        told = (kept.debits.get(account_id, 0), kept.credits.get(account_id, 0))
        found = (replay.debits.get(account_id, 0), replay.credits.get(account_id, 0))
        if told != found:
            yield f"account {account_id} was rolled up to {told}, its rows say {found}"
    if halves(kept) != halves(replay):
        yield "its open promises are not those of its rows"
