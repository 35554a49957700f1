"""Race many processes and threads over little money, kill some of them, and prove the ledger afterwards.

    make prove-ledger-races [DURATION_S=60] [SEED=1]

Three races: 8 processes on PostgreSQL, 64 threads of one process on SQLite, 4 processes on SQLite. Holds,
settlements, charges beside reserves and out of them, reserves that shrink, releases, refunds, lapses, issues,
claims (each step by whoever comes) and payouts compete;
every few seconds a process is killed with SIGKILL and another takes its place. Afterwards the sweeper and
the jobs run once, and then: every invariant that the database can prove holds, no hold is left, every call
that was answered is in the books, what was told of charges and reserves is in the journal, and each kind of
thing did happen.
"""

# `support` is importable only once the path is set, below.
# ruff: noqa: E402

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

from sqlmodel import Session, col, func, select
from support.economy import ORGS, OWNERS, Economy
from support.ledger_checks import cap_problems, claim_problems, payout_problems, usage_problems
from support.ledger_racer import HOLD_S, SCALE
from support.ledger_world import World
from support.postgres import create_database, postgres_server

from catalog.ground.clock import DAY_US, SECOND_US, now_us
from catalog.ground.database import Database
from marketplace.cli.ledger import recost
from marketplace.ledger.chart import Code, Kind
from marketplace.ledger.sweep import expired_holds
from marketplace.ledger.tables import Transfer
from marketplace.ledger.verify import Report, verify
from marketplace.members.parties import add_link
from marketplace.migrations.migrate import migrate
from marketplace.payouts.accruals import accrue, mature
from marketplace.payouts.tables import Payout
from marketplace.vouchers.proof import prove
from marketplace.vouchers.tables import Claim, Refund

_RESERVE = col(Transfer.tx).startswith("res_", autoescape=True)
_PAST_CALLS = 12
"""Calls of ten days ago: what they earned is mature, so that there is something to pay out."""


class Race(NamedTuple):
    """How many race, and what came of it: `problems` is empty when all is well.

    `raced` counts what is in the database afterwards, so it has what killed processes did.
    """

    name: str
    report: Report
    problems: list[str]
    done: Counter[str]
    kills: int
    acknowledged: int
    raced: dict[str, int]


def race(name: str, url: str, processes: int, threads: int, duration_s: float, seed: int) -> Race:
    """Race on a migrated, empty database and prove it."""
    database = Database(url)
    world = World(database)
    economy = _begun(database, world)
    with tempfile.TemporaryDirectory(prefix="tm-race-") as folder:
        racers = _Racers([url, economy.mark], Path(folder), threads, seed)
        problems = racers.run(processes, duration_s)
        acknowledged = (Path(folder) / "answered").read_text().split()
        told = (Path(folder) / "told").read_text().splitlines()
    # Whatever anybody still held is overdue soon; sweep as if it were.
    with database.reading() as session:
        overdue = expired_holds(session, now_us() + 2 * HOLD_S * SECOND_US, limit=10**6)
    world.apply(*overdue)
    world.close()
    with database.session() as session:
        accrue(session, now_us() + 2 * DAY_US)
        mature(session, now_us() + 2 * DAY_US)
    report = verify(database, recost=recost, checks=[lambda c: prove(Session(bind=c))])
    problems += report.problems
    if report.open_holds:
        problems.append(f"{report.open_holds} holds were left")
    problems += _lost(database, acknowledged)
    problems += _untrue(database, told)
    with database.reading() as session:
        problems += [*claim_problems(session), *cap_problems(session)]
        problems += usage_problems(session, [(economy.org("a"), economy.org("kin"))])
        problems += payout_problems(session, [economy.org(org) for org in (*OWNERS, "kin")])
        raced = _raced(session)
    database.dispose()
    return Race(name, report, problems, racers.done, racers.kills, len(acknowledged), raced)


def _begun(database: Database, world: World) -> Economy:
    """Return an economy with grants, with past calls, and with two parties that are related."""
    economy = Economy(database, world, now=now_us() - 10 * DAY_US, scale=SCALE)
    for org in ORGS:
        economy.top_up(org, 500 + 50 * _PAST_CALLS)
        for _ in range(_PAST_CALLS):
            past = economy.admit(org, "maker", 50)
            assert past is not None
            economy.settle(past, 50)
    economy.now = now_us()
    for org in ORGS:
        for code in Economy.RATIOS:
            economy.issue(org, code, 50)
    with database.session() as session:
        a, holding, kin = (economy.org(name) for name in ("a", "holding", "kin"))
        add_link(session, a, holding, "control", by="officer", at_us=economy.now)
        add_link(session, holding, kin, "family", by="officer", at_us=economy.now)
    return economy


def _raced(session: Session) -> dict[str, int]:
    """Return how often each thing that was to be raced has happened."""

    def count(column: Any, *where: Any) -> int:
        query = select(func.count(column)).where(*where)
        return int(session.exec(query).one())

    def moves(code: Code) -> int:
        return count(col(Transfer.seq), Transfer.code == int(code), Transfer.leg == 0)

    def ends(kind: Kind) -> int:
        return count(col(Transfer.seq), Transfer.kind == int(kind), Transfer.leg == 0)

    def posted(kind: Kind) -> int:
        uses = (Transfer.code == int(Code.USE), Transfer.leg == 0, Transfer.kind == int(kind))
        return count(col(Transfer.seq), *uses)

    return {
        "holds": ends(Kind.PENDING),
        "settlements": posted(Kind.POST),
        "charges": posted(Kind.POSTED),
        "reserves": count(col(Transfer.seq), _RESERVE, Transfer.kind == int(Kind.PENDING)),
        "reserves that shrank": count(col(Transfer.seq), _RESERVE, Transfer.kind == int(Kind.VOID)),
        "voids": ends(Kind.VOID),
        "expiries": ends(Kind.EXPIRE),
        "refunds": count(col(Refund.id)),
        "issues": moves(Code.ISSUE),
        "lapses": moves(Code.LAPSE),
        "claims settled": count(col(Claim.id), Claim.state == "settled"),
        "claims withdrawn": count(col(Claim.id), Claim.state == "withdrawn"),
        "payouts paid": count(col(Payout.id), Payout.was_paid == 1),
    }


class _Racers:
    """Processes that race, and whoever kills them. `command` is what every one of them is told."""

    def __init__(self, command: list[str], folder: Path, threads: int, seed: int) -> None:
        self._command, self._folder, self._threads = command, folder, threads
        self._chance = random.Random(seed)
        self._running: list[subprocess.Popen[str]] = []
        self.done: Counter[str] = Counter()
        self.kills = 0
        (folder / "answered").touch()
        (folder / "told").touch()

    def run(self, processes: int, duration_s: float) -> list[str]:
        """Race for so long, killing one every few seconds; returns what went wrong."""
        for _ in range(processes):
            self._start(duration_s)
        while len(list(self._folder.glob("ready-*"))) < processes:
            time.sleep(0.05)
            for process in self._running:
                assert process.poll() is None, process.communicate()
        ends = time.monotonic() + duration_s
        kill_every_s = max(4.0, duration_s / 10)
        next_kill = time.monotonic() + kill_every_s / 2
        while time.monotonic() < ends:
            time.sleep(0.1)
            if time.monotonic() > next_kill:
                next_kill += kill_every_s
                self._kill_one(ends)
        return [problem for process in self._running for problem in self._ended(process)]

    def _start(self, left_s: float) -> None:
        seed = str(self._chance.randrange(10**9))
        command = [
            sys.executable, "-m", "tests.support.ledger_racer", *self._command, str(left_s),
            str(self._threads), seed, str(self._folder),
        ]  # fmt: skip
        self._running.append(
            subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )

    def _kill_one(self, ends: float) -> None:
        victim = self._running.pop(self._chance.randrange(len(self._running)))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        self.kills += 1
        self._start(max(1.0, ends - time.monotonic()))

    def _ended(self, process: subprocess.Popen[str]) -> list[str]:
        output, errors = process.communicate(timeout=120)
        for line in output.splitlines():
            what, _, times = line.partition("\t")
            self.done[what] += int(times)
        return [f"a racer failed: {errors[-1500:]}"] if process.returncode else []


def _lost(database: Database, acknowledged: list[str]) -> list[str]:
    """Return the calls that were answered and are not in the books."""
    connection = database.raw_connection()
    booked = {row[0] for row in connection.execute("SELECT id FROM usage_event").fetchall()}
    connection.close()
    return [f"{call} was answered and is lost" for call in set(acknowledged) - booked]


def _untrue(database: Database, told: list[str]) -> list[str]:
    """Return what racers were told of charges and reserves and the journal says otherwise."""
    connection = database.raw_connection()
    paid = dict(connection.execute("SELECT id, wallet_u FROM usage_event").fetchall())
    promised, ended = (
        dict(
            connection.execute(
                f"SELECT tx, amount FROM ledger_transfer WHERE kind IN ({kinds})"
            ).fetchall()
        )
        for kinds in ("2", "3, 4, 5")
    )
    connection.close()
    found = []
    for line in told:
        word, name, *rest = line.split()
        if word == "paid":
            true = paid.get(name) == int(rest[0])
        elif word == "refused":
            true = name not in paid
        else:
            into, amount = rest[0], int(rest[1])
            kept = promised.get(into, 0) == amount and name in ended
            true = (into not in promised) if word == "gone" or not amount else kept
        if not true:
            found.append(f"told: {line}; the journal says otherwise")
    return found


def _tell(result: Race) -> None:
    report = result.report
    print(
        f"{result.name}: {report.events} calls settled ({result.acknowledged} answered), "
        f"{report.transfers} transfers in {report.batches} batches, {result.kills} kills, "
        f"{len(result.problems)} problems",
        flush=True,
    )
    print("    " + ", ".join(f"{times} {what}" for what, times in result.raced.items()))
    for what, times in result.done.most_common():
        print(f"    {times:7} {what}")
    for problem in result.problems[:20]:
        print(f"    OFF: {problem}")


def main() -> None:
    """Run the three races; exit 1 when anything is off."""
    duration_s = float(os.environ.get("DURATION_S") or 60)
    seed = int(os.environ.get("SEED") or time.time_ns() % 10**6)
    print(f"seed {seed}, {duration_s:g} s each")
    results = []
    with tempfile.TemporaryDirectory(prefix="tm-race-") as folder:
        for name, processes, threads in (("threads", 1, 64), ("processes", 4, 6)):
            url = f"sqlite:///{folder}/{name}.db"
            _migrated(url)
            result = race(
                f"SQLite, {processes} x {threads}", url, processes, threads, duration_s, seed
            )
            _tell(result)
            results.append(result)
        with postgres_server() as server:
            url = create_database(server, "race")
            _migrated(url)
            result = race("PostgreSQL, 8 x 4", url, 8, 4, duration_s, seed)
            _tell(result)
            results.append(result)
    idle = [f"{r.name}: no {what}" for r in results for what, n in r.raced.items() if not n]
    for what in idle:
        print(f"NOT RACED: {what}; race longer")
    sys.exit(any(result.problems for result in results) or bool(idle))


def _migrated(url: str) -> None:
    database = Database(url)
    migrate(database)
    database.dispose()


if __name__ == "__main__":
    main()
