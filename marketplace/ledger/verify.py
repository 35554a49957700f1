"""Prove the ledger from its journal alone: replay every row, compare every balance, walk every chain.

Works on a running database (it reads one snapshot) and on a copy. Nothing is repaired: a ledger that is
off is stopped and looked at by people. What went into archives is proven from their sealed totals, or,
given the archive files, from their rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, text

from catalog.ground.database import Database
from marketplace.ledger.archive_file import read_archive
from marketplace.ledger.chain import GENESIS
from marketplace.ledger.chart import Rule
from marketplace.ledger.groups import Stray, archived_through, live_groups
from marketplace.ledger.replay import AccountRow, Recost, Replay, account_rows
from marketplace.ledger.seal import Sealed, recompute_rollup, sealed_archives

Progress = Callable[[int], None]
Check = Callable[[Connection], Iterable[str]]
"""Something else that must hold in the same snapshot, such as a programme's budget; yields problems."""

ACCOUNTS = (
    "SELECT id, code, unit, rule, dr_pending, dr_posted, cr_pending, cr_posted FROM ledger_account"
)
_EVERY = 64
_RULES = frozenset(map(int, Rule))


@dataclass
class Report:
    """What was found. `problems` is empty for a ledger that is exact; rates are rows per second."""

    problems: list[str] = field(default_factory=list)
    transfers: int = 0
    events: int = 0
    batches: int = 0
    accounts: int = 0
    open_holds: int = 0
    archives: int = 0
    seconds: float = 0.0
    heads: dict[str, str] = field(default_factory=dict)
    """The newest link of each lane's chain, by the lane's name."""

    @property
    def rows_per_s(self) -> float:
        """Transfers and events replayed per second."""
        return (self.transfers + self.events) / self.seconds if self.seconds else 0.0


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """Yield a connection that sees one state of the database, whoever writes meanwhile."""
    engine = database.engine.execution_options(readonly=True)
    if database.kind == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        yield connection
        connection.rollback()


def verify(
    database: Database,
    progress: Progress = lambda _rows: None,
    *,
    recost: Recost | None = None,
    checks: Sequence[Check] = (),
    archive_dir: Path | None = None,
) -> Report:
    """Replay the journal and return what is off. `progress` is told the rows done so far.

    `recost` recomputes each event's cost, `checks` look at other tables in the same snapshot, and
    `archive_dir` holds the archive files, whose rows are then replayed before the database's.
    """
    started = time.perf_counter()
    with snapshot(database) as connection:
        accounts = account_rows(connection.execute(text(ACCOUNTS)))
        replay = Replay(accounts, recost)
        archives = sealed_archives(connection)
        _begin(connection, replay, archives, archive_dir, progress)
        for number, group in enumerate(live_groups(connection)):
            if isinstance(group, Stray):
                replay.problem(f"lane {group.lane} row {group.seq}: belongs to no batch")
                continue
            replay.take(group)
            if number % _EVERY == 0:
                progress(replay.transfers + replay.events)
        heads = _compare_lanes(connection, replay)
        _compare_accounts(replay, accounts)
        open_holds = _compare_holds(connection, replay)
        for check in checks:
            for words in check(connection):
                replay.problem(words)
    return Report(
        problems=replay.problems,
        transfers=replay.transfers,
        events=replay.events,
        batches=replay.batches,
        accounts=len(accounts),
        open_holds=open_holds,
        archives=len(archives),
        seconds=time.perf_counter() - started,
        heads=heads,
    )


def _begin(
    connection: Connection,
    replay: Replay,
    archives: list[Sealed],
    folder: Path | None,
    progress: Progress,
) -> None:
    """Bring the replay to where the database's own rows begin."""
    for archive in archives:
        if not archive.is_chained(connection):
            replay.problem(f"archive {archive.name}: its seal is not in the journal")
        if folder is None:
            archive.begin(replay)
            continue
        for group in read_archive(folder / archive.name, archive.sha256):
            replay.take(group)
            progress(replay.transfers + replay.events)
        for words in recompute_rollup(replay, archives[: archives.index(archive) + 1]):
            replay.problem(f"archive {archive.name}: {words}")
    for lane, (n, seq, head) in archived_through(connection).items():
        if folder is None:
            replay.resume(lane, n, seq, head)
        elif (replay.next_n.get(lane), replay.heads.get(lane)) != (n + 1, head):
            replay.problem(f"lane {lane}: its archives end at another batch than the database says")


def _compare_lanes(connection: Connection, replay: Replay) -> dict[str, str]:
    heads = {}
    missing = set(replay.heads)
    lanes = connection.execute(text("SELECT id, name, next_seq, next_batch, head FROM ledger_lane"))
    for lane, name, next_seq, next_n, head in lanes:
        missing.discard(lane)
        heads[name] = replay.heads.get(lane, GENESIS)
        found = (replay.next_seq.get(lane, 1), replay.next_n.get(lane, 1), heads[name])
        if found != (next_seq, next_n, head):
            replay.problem(f"lane {lane} ({name}): its head is not its last batch")
    for lane in sorted(missing):
        replay.problem(f"lane {lane}: has batches and no row of its own")
    return heads


def _compare_accounts(replay: Replay, accounts: dict[int, AccountRow]) -> None:
    for tx, leg in replay.ended_first:
        replay.problem(f"{tx} leg {leg}: ended without a promise")
    pending: dict[int, int] = {}
    for account_id, amount in replay.promised.values():
        pending[account_id] = pending.get(account_id, 0) + amount
    by_unit: dict[str, int] = {}
    for account_id in replay.debits.keys() | replay.credits.keys() | pending.keys():
        if account_id not in accounts:
            replay.problem(f"account {account_id} has vanished")
    for account in accounts.values():
        debits, credits = replay.debits.get(account.id, 0), replay.credits.get(account.id, 0)
        by_unit[account.unit] = by_unit.get(account.unit, 0) + debits - credits
        if account.rule not in _RULES:
            replay.problem(f"{account.code}: nothing bounds it, its rule is {account.rule}")
        told = (account.dr_pending, account.dr_posted, account.cr_pending, account.cr_posted)
        if account.rule == Rule.PROJECTION:
            if any(told):
                replay.problem(f"{account.code}: a projection's row says {told}, not zero")
            if pending.get(account.id, 0):
                replay.problem(f"{account.code}: a projection has promised something")
            continue
        replayed = (pending.get(account.id, 0), debits, 0, credits)
        if told != replayed:
            replay.problem(f"{account.code}: its row says {told}, the journal {replayed}")
        if account.rule == Rule.DEBITS_WITHIN_CREDITS and replayed[0] + debits > credits:
            replay.problem(f"{account.code}: spent or promised more than it had")
        if account.rule == Rule.CREDITS_WITHIN_DEBITS and credits > debits:
            replay.problem(f"{account.code}: settled more than it was owed")
        if not replay.tiled(account.id):
            replay.problem(f"{account.code}: its debit totals do not follow one another")
    for unit, off in by_unit.items():
        if off:
            replay.problem(f"debits and credits in {unit} differ by {off}")


def _compare_holds(connection: Connection, replay: Replay) -> int:
    """Hold the open promises against the hold rows, leg by leg; returns the number of holds."""
    held: dict[tuple[str, int], tuple[int, int]] = {}
    count = 0
    for tx, legs in connection.execute(text("SELECT tx, legs FROM ledger_hold")):
        count += 1
        for index, (account_id, amount, _) in enumerate(json.loads(legs)):
            held[tx, index] = (account_id, amount)
    for tx, leg in replay.promised.keys() - held.keys():
        replay.problem(f"{tx} leg {leg}: promised, but no hold")
    for key, promise in held.items():
        if replay.promised.get(key) != promise:
            replay.problem(f"{key[0]} leg {key[1]}: a hold without its promise")
    return count
