"""Move closed months out of the journal: into a sealed, compressed file, with totals kept in their place.

Nothing leaves before the file is on disk and its seal is in the journal. Then the rows go in small
transactions, beside a running ledger; the database lets only rows go that an archive covers. A crash
anywhere leaves a ledger that `verify` accepts, and the next run goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import Connection, text

from catalog.ground.clock import Clock, now_us, to_datetime
from catalog.ground.database import Database
from catalog.ground.errors import LedgerCorrupt
from marketplace.ledger.accounts import account_id, apply_now
from marketplace.ledger.archive_file import ArchiveWriter, one_archive_at_a_time
from marketplace.ledger.chart import CLEARING, Code
from marketplace.ledger.groups import Stray, archived_through, live_groups, stream
from marketplace.ledger.operations import Entry, Post
from marketplace.ledger.replay import Recost, Replay, account_rows
from marketplace.ledger.seal import Sealed, halves, sealed_archives
from marketplace.ledger.tables import Archive, ArchivedLane, ArchivedTx, Rollup
from marketplace.ledger.verify import ACCOUNTS, snapshot

_PRUNED = 2_000
"""Rows a transaction: callers wait for less than a tenth of a second."""
_DELETES = {
    "ledger_transfer": ("seq", "seq <= :last_seq"),
    "usage_event": ("seq", "seq <= :last_seq"),
    "ledger_batch": ("n", "last_seq <= :last_seq"),
}


def archive(
    database: Database,
    before_us: int,
    folder: Path,
    *,
    recost: Recost | None = None,
    clock: Clock = now_us,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Sealed | None:
    """Archive every lane's batches that end before the instant; None when there are none.

    Raises `LedgerCorrupt` and changes nothing when that part of the journal is off, and `Conflict` while
    another archive is being made in the folder.
    """
    with one_archive_at_a_time(folder):
        return _archive(database, before_us, folder, recost, clock, progress)


def _archive(
    database: Database,
    before_us: int,
    folder: Path,
    recost: Recost | None,
    clock: Clock,
    progress: Callable[[int], None],
) -> Sealed | None:
    with snapshot(database) as connection:
        cuts = _cuts(connection, before_us)
        if not cuts:
            return None
        earlier = sealed_archives(connection)
        number = len(earlier) + 1
        day = to_datetime(before_us).strftime("%Y-%m-%d")
        name = f"ledger-{number:04d}-before-{day}.jsonl.gz"
        accounts = account_rows(connection.execute(text(ACCOUNTS)))
        replay = Replay(accounts, recost)
        writer = ArchiveWriter(folder / name, before_us)
        try:
            posts = _copy(connection, cuts, replay, writer, progress)
            if replay.problems:
                raise LedgerCorrupt(
                    f"The journal is off, so nothing was archived: {replay.problems[0]}.",
                    remedy="Run `tokenmart ledger verify`.",
                )
            sha256 = writer.close()
        except BaseException:
            writer.discard()
            raise
        segments = _segments(connection, cuts)
    made = Sealed(
        number=number,
        name=name,
        sha256=sha256,
        previous=earlier[-1].seal if earlier else "",
        before_us=before_us,
        sealed_at_us=clock(),
        transfers=replay.transfers,
        events=replay.events,
        lanes=[
            (lane, replay.next_n[lane] - 1, replay.next_seq[lane] - 1, replay.heads[lane])
            for lane in sorted(cuts)
        ],
        totals=[
            (
                account,
                replay.debits.get(account, 0),
                replay.credits.get(account, 0),
                json.dumps(segments.get(account, []), separators=(",", ":")),
            )
            for account in sorted(replay.debits.keys() | replay.credits.keys())
        ],
        open=halves(replay),
    )
    _seal(database, made, posts)
    prune(database)
    return made


def _cuts(connection: Connection, before_us: int) -> dict[int, int]:
    """Return, by lane, the last batch all of whose rows are older than the instant."""
    through = archived_through(connection)
    rows = connection.execute(
        text(
            "SELECT b.lane, max(b.n) FROM ledger_batch AS b LEFT JOIN ("
            "  SELECT lane, min(seq) AS seq FROM ledger_transfer WHERE at_us >= :before GROUP BY lane"
            ") AS t ON t.lane = b.lane LEFT JOIN ("
            "  SELECT lane, min(seq) AS seq FROM usage_event WHERE ended_at_us >= :before GROUP BY lane"
            ") AS u ON u.lane = b.lane "
            "WHERE (t.seq IS NULL OR b.last_seq < t.seq) AND (u.seq IS NULL OR b.last_seq < u.seq) "
            "GROUP BY b.lane"
        ),
        {"before": before_us},
    )
    return {lane: n for lane, n in rows if n > through.get(lane, (0, 0, ""))[0]}


def _copy(
    connection: Connection,
    cuts: dict[int, int],
    replay: Replay,
    writer: ArchiveWriter,
    progress: Callable[[int], None],
) -> list[str]:
    """Write the batches up to the cuts; returns the ids of the control plane's posts among them."""
    for lane, (n, seq, head) in archived_through(connection).items():
        replay.resume(lane, n, seq, head)
    posts = []
    for group in live_groups(connection):
        if isinstance(group, Stray):
            replay.problem(f"lane {group.lane} row {group.seq} belongs to no batch")
        elif group.n <= cuts.get(group.lane, 0):
            posts += replay.take(group)
            writer.add(group)
            progress(replay.transfers + replay.events)
    return posts


def _segments(connection: Connection, cuts: dict[int, int]) -> dict[int, list[list[int]]]:
    """Return, by account, the stretches that archived posted debits cover: nearly always one."""
    through = archived_through(connection)
    last = {
        lane: connection.execute(
            text("SELECT last_seq FROM ledger_batch WHERE lane = :lane AND n = :n"),
            {"lane": lane, "n": n},
        ).scalar_one()
        for lane, n in cuts.items()
    }
    chosen = " OR ".join(
        f"(lane = {lane} AND seq > {through.get(lane, (0, 0, ''))[1]} AND seq <= {last_seq})"
        for lane, last_seq in last.items()
    )
    found: dict[int, list[list[int]]] = {}
    for account, start, end in stream(
        connection,
        "SELECT debit_id, debit_total - amount, debit_total FROM ledger_transfer "
        f"WHERE debit_total IS NOT NULL AND amount > 0 AND ({chosen}) ORDER BY debit_id, debit_total",
    ):
        known = found.setdefault(account, [])
        if known and known[-1][1] == start:
            known[-1][1] = end
        else:
            known.append([start, end])
    return found


def _seal(database: Database, made: Sealed, posts: list[str]) -> None:
    with database.session() as session:
        session.add(
            Archive(
                number=made.number,
                name=made.name,
                sha256=made.sha256,
                previous=made.previous,
                before_us=made.before_us,
                sealed_at_us=made.sealed_at_us,
                transfers=made.transfers,
                events=made.events,
                open=json.dumps(made.open, separators=(",", ":")),
            )
        )
        for lane, last_n, last_seq, head in made.lanes:
            session.add(
                ArchivedLane(
                    archive_id=made.number, lane=lane, last_n=last_n, last_seq=last_seq, head=head
                )
            )
        for account, debits, credits, segments in made.totals:
            session.add(
                Rollup(
                    archive_id=made.number,
                    account_id=account,
                    debits=debits,
                    credits=credits,
                    segments=segments,
                )
            )
        session.add_all(ArchivedTx(tx=tx, archive_id=made.number) for tx in posts)
        clearing = account_id(session, CLEARING)
        mark = Entry(Code.ARCHIVE, clearing, clearing, 0)
        apply_now(session, Post(made.tx, (mark,), made.sealed_at_us))


def prune(database: Database) -> int:
    """Delete the rows that archives cover, a few at a time; returns how many went."""
    with snapshot(database) as connection:
        through = archived_through(connection)
    return sum(
        gone
        for table in _DELETES
        for lane, (_, last_seq, _) in through.items()
        for gone in _pruned(database, table, lane, last_seq)
    )


def _pruned(database: Database, table: str, lane: int, last_seq: int) -> Iterator[int]:
    key, covered = _DELETES[table]
    statement = text(
        f"DELETE FROM {table} WHERE lane = :lane AND {key} IN (SELECT {key} FROM {table} "
        f"WHERE lane = :lane AND {covered} ORDER BY {key} LIMIT {_PRUNED})"
    )
    while True:
        with database.session() as session:
            result = session.connection().execute(statement, {"lane": lane, "last_seq": last_seq})
            gone = result.rowcount
        yield gone
        if gone < _PRUNED:
            return
