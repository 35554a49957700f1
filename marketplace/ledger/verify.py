"""Prove the ledger from its journal alone: replay every row, compare every balance, walk every chain.

Works on a running database (it reads one snapshot) and on a copy. Nothing is repaired: a ledger that is
off is stopped and looked at by people.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from typing import Any

from sqlalchemy import Connection, text

from catalog.ground.database import Database
from marketplace.ledger.chain import GENESIS, batch_sha256
from marketplace.ledger.chart import CLEARING, Kind, Rule
from marketplace.ledger.dialect import USAGE_COLUMNS

_TRANSFERS = (
    "SELECT lane, seq, tx, leg, kind, code, debit_id, credit_id, amount, debit_total, at_us "
    "FROM ledger_transfer ORDER BY lane, seq"
)
_EVENTS = f"SELECT lane, seq, {', '.join(USAGE_COLUMNS)} FROM usage_event ORDER BY lane, seq"
_BATCHES = "SELECT lane, n, first_seq, last_seq, sha256 FROM ledger_batch ORDER BY lane, n"
_PAID = [USAGE_COLUMNS.index(name) for name in ("wallet_u", "voucher_u", "free_u", "overrun_u")]
_COST = USAGE_COLUMNS.index("cost_u")
_PAGE = 2_000

Progress = Callable[[int], None]


@dataclass
class Report:
    """What was found. `problems` is empty for a ledger that is exact; rates are rows per second."""

    problems: list[str] = field(default_factory=list)
    transfers: int = 0
    events: int = 0
    batches: int = 0
    accounts: int = 0
    open_holds: int = 0
    seconds: float = 0.0
    heads: dict[str, str] = field(default_factory=dict)
    """The newest link of each lane's chain, by the lane's name."""

    @property
    def rows_per_s(self) -> float:
        """Transfers and events replayed per second."""
        return (self.transfers + self.events) / self.seconds if self.seconds else 0.0


def verify(database: Database, progress: Progress = lambda _rows: None) -> Report:
    """Replay the journal and return what is off. `progress` is told the rows done so far."""
    report = Report()
    started = time.perf_counter()
    engine = database.engine.execution_options(readonly=True)
    if database.kind == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        replay = _Replay(report)
        _walk_chains(connection, report, replay, progress)
        replay.compare(connection)
    report.seconds = time.perf_counter() - started
    return report


def _rows(connection: Connection, sql: str) -> Iterator[Any]:
    result = connection.execution_options(yield_per=_PAGE).execute(text(sql))
    yield from result


def _walk_chains(
    connection: Connection, report: Report, replay: _Replay, progress: Progress
) -> None:
    journal = merge(
        (("t", *row) for row in _rows(connection, _TRANSFERS)),
        (("u", *row) for row in _rows(connection, _EVENTS)),
        key=lambda row: (row[1], row[2]),
    )
    lanes = {
        row.id: row
        for row in connection.execute(text("SELECT id, name, next_seq, head FROM ledger_lane"))
    }
    heads: dict[int, str] = dict.fromkeys(lanes, GENESIS)
    expected_seq: dict[int, int] = dict.fromkeys(lanes, 1)
    row = next(journal, None)
    for lane, n, first_seq, last_seq, sha256 in _rows(connection, _BATCHES):
        report.batches += 1
        if first_seq != expected_seq.get(lane):
            report.problems.append(f"lane {lane} batch {n}: rows are missing before {first_seq}")
        chained = []
        while row is not None and (row[1], row[2]) <= (lane, last_seq):
            chained.append(_chained(row))
            replay.take(row)
            row = next(journal, None)
        if len(chained) != last_seq - first_seq + 1:
            report.problems.append(f"lane {lane} batch {n}: {len(chained)} rows are there")
        if batch_sha256(heads.get(lane, GENESIS), chained) != sha256:
            report.problems.append(f"lane {lane} batch {n}: the hash chain is broken")
        heads[lane] = sha256
        expected_seq[lane] = last_seq + 1
        progress(report.transfers + report.events)
    while row is not None:
        report.problems.append(f"lane {row[1]} row {row[2]}: belongs to no batch")
        replay.take(row)
        row = next(journal, None)
    for lane_id, lane in lanes.items():
        report.heads[lane.name] = heads[lane_id]
        if lane.head != heads[lane_id] or lane.next_seq != expected_seq[lane_id]:
            report.problems.append(f"lane {lane_id} ({lane.name}): its head is not its last batch")


def _chained(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the row's fields as `chain.batch_sha256` covers them."""
    if row[0] == "t":
        return row[2:]
    return (*row[3:], row[2])


class _Replay:
    """Balances, open promises and the clearing account, recomputed row by row."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._posted: dict[int, list[int]] = {}
        self._pending: dict[tuple[str, int], list[Any]] = {}
        self._ended_first: dict[tuple[str, int], tuple[int, int]] = {}
        self._through: dict[str, dict[int, int]] = {}

    def take(self, row: tuple[Any, ...]) -> None:
        if row[0] == "u":
            self._event(row[3:])
        else:
            self._transfer(*row[3:])

    def _event(self, event: tuple[Any, ...]) -> None:
        self._report.events += 1
        if sum(event[i] for i in _PAID) != event[_COST]:
            self._report.problems.append(f"event {event[0]}: its parts do not sum to its cost")

    def _transfer(
        self,
        tx: str,
        leg: int,
        kind: int,
        _code: int,
        debit_id: int,
        credit_id: int,
        amount: int,
        _debit_total: int | None,
        _at_us: int,
    ) -> None:
        self._report.transfers += 1
        key = (tx, leg)
        if kind == Kind.PENDING:
            self._pending[key] = [debit_id, amount]
            if key in self._ended_first:
                self._end(key, *self._ended_first.pop(key))
            return
        if kind in (Kind.POST, Kind.VOID, Kind.EXPIRE):
            ended = (debit_id, amount)
            if key in self._pending:
                self._end(key, *ended)
            else:
                # Another lane may have ended it: its row comes later in this order.
                self._ended_first[key] = ended
        if kind in (Kind.POSTED, Kind.POST):
            self._posted.setdefault(debit_id, [0, 0])[0] += amount
            self._posted.setdefault(credit_id, [0, 0])[1] += amount

    def _end(self, key: tuple[str, int], debit_id: int, amount: int) -> None:
        account_id, promised = self._pending.pop(key)
        if account_id != debit_id or amount > promised:
            self._report.problems.append(f"{key[0]} leg {key[1]}: ended otherwise than promised")

    def compare(self, connection: Connection) -> None:
        """Hold the replay against the account and hold rows of the same snapshot."""
        problems = self._report.problems
        problems += [f"{tx} leg {leg}: ended without a promise" for tx, leg in self._ended_first]
        pending: dict[int, int] = {}
        for account_id, amount in self._pending.values():
            pending[account_id] = pending.get(account_id, 0) + amount
        for account in _rows(
            connection,
            "SELECT id, code, rule, dr_pending, dr_posted, cr_pending, cr_posted FROM ledger_account",
        ):
            self._report.accounts += 1
            debits, credits = self._posted.get(account.id, [0, 0])
            if account.code == CLEARING and debits != credits:
                problems.append(f"clearing is off by {credits - debits}")
            if account.rule == Rule.PROJECTION:
                continue
            told = (account.dr_pending, account.dr_posted, account.cr_posted)
            replayed = (pending.get(account.id, 0), debits, credits)
            if told != replayed:
                problems.append(f"{account.code}: its row says {told}, the journal {replayed}")
        self._compare_holds(connection)

    def _compare_holds(self, connection: Connection) -> None:
        promised = {tx for tx, _ in self._pending}
        rows = connection.execute(text("SELECT tx, legs FROM ledger_hold"))
        holds = {row.tx: row.legs for row in rows}
        self._report.open_holds = len(holds)
        self._report.problems += [f"{tx}: promised, but no hold" for tx in promised - holds.keys()]
        self._report.problems += [
            f"{tx}: a hold without its promise"
            for tx, legs in holds.items()
            if tx not in promised and legs != "[]"
        ]
