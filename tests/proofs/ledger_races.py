"""Race many processes and threads over little money, kill some of them, and prove the ledger afterwards.

    make prove-ledger-races [DURATION_S=60] [SEED=1]

Three races: 8 processes on PostgreSQL, 64 threads of one process on SQLite, 4 processes on SQLite. Holds,
settlements, releases, refunds, lapses, issues and claims compete; every few seconds a process is killed
with SIGKILL and another takes its place. Afterwards the sweeper runs once, and then: every invariant
that the journal can prove holds, no hold is left, and every call that was answered is in the books.
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
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

from support.economy import BUDGET_U, ORGS, Economy
from support.ledger_racer import HOLD_S
from support.ledger_world import World
from support.postgres import create_database, postgres_server

from catalog.ground.clock import SECOND_US, now_us
from catalog.ground.database import Database
from marketplace.cli.ledger import recost
from marketplace.ledger.sweep import expired_holds
from marketplace.ledger.verify import Report, verify
from marketplace.migrations.migrate import migrate


class Race(NamedTuple):
    """How many race, and what came of it: `problems` is empty when all is well."""

    name: str
    report: Report
    problems: list[str]
    done: Counter[str]
    kills: int
    acknowledged: int


def race(name: str, url: str, processes: int, threads: int, duration_s: float, seed: int) -> Race:
    """Race on a migrated, empty database and prove it."""
    database = Database(url)
    world = World(database)
    economy = Economy(database, world, now=now_us())
    for org in ORGS:
        economy.top_up(org, 500)
        for code in Economy.RATIOS:
            economy.issue(org, code, BUDGET_U // 4)
    chance = random.Random(seed)
    problems: list[str] = []
    done: Counter[str] = Counter()
    kills = 0
    with tempfile.TemporaryDirectory(prefix="tm-race-") as folder:
        answered = Path(folder) / "answered"
        answered.touch()
        running: list[subprocess.Popen[str]] = []

        def start(left: float) -> None:
            command = [
                sys.executable, "-m", "tests.support.ledger_racer", url, economy.mark, str(left),
                str(threads), str(chance.randrange(10**9)), folder,
            ]  # fmt: skip
            running.append(
                subprocess.Popen(
                    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )

        for _ in range(processes):
            start(duration_s)
        while len(list(Path(folder).glob("ready-*"))) < processes:
            time.sleep(0.05)
            assert all(process.poll() is None for process in running), running[0].communicate()
        ends = time.monotonic() + duration_s
        kill_every_s = max(4.0, duration_s / 10)
        next_kill = time.monotonic() + kill_every_s / 2
        while time.monotonic() < ends:
            time.sleep(0.1)
            if time.monotonic() > next_kill:
                next_kill += kill_every_s
                victim = running.pop(chance.randrange(len(running)))
                victim.send_signal(signal.SIGKILL)
                victim.communicate()
                kills += 1
                start(max(1.0, ends - time.monotonic()))
        for process in running:
            output, errors = process.communicate(timeout=120)
            if process.returncode:
                problems.append(f"a racer failed: {errors[-1500:]}")
            for line in output.splitlines():
                what, _, times = line.partition("\t")
                done[what] += int(times)
        acknowledged = answered.read_text().split()
    # Whatever anybody still held is overdue soon; sweep as if it were.
    with database.reading() as session:
        overdue = expired_holds(session, now_us() + 2 * HOLD_S * SECOND_US, limit=10**6)
    world.apply(*overdue)
    world.close()
    report = verify(database, recost=recost, checks=_other_checks())
    problems += report.problems
    if report.open_holds:
        problems.append(f"{report.open_holds} holds were left")
    problems += _lost(database, acknowledged)
    database.dispose()
    return Race(name, report, problems, done, kills, len(acknowledged))


def _other_checks() -> list:  # type: ignore[type-arg]
    from sqlmodel import Session

    from marketplace.vouchers.proof import prove

    return [lambda connection: prove(Session(bind=connection))]


def _lost(database: Database, acknowledged: list[str]) -> list[str]:
    """Return the calls that were answered and are not in the books."""
    connection = database.raw_connection()
    booked = {row[0] for row in connection.execute("SELECT id FROM usage_event").fetchall()}
    connection.close()
    return [f"{call} was answered and is lost" for call in set(acknowledged) - booked]


def _tell(result: Race) -> None:
    report = result.report
    print(
        f"{result.name}: {report.events} calls settled ({result.acknowledged} answered), "
        f"{report.transfers} transfers in {report.batches} batches, {result.kills} kills, "
        f"{len(result.problems)} problems",
        flush=True,
    )
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
    sys.exit(any(result.problems or not result.report.events for result in results))


def _migrated(url: str) -> None:
    database = Database(url)
    migrate(database)
    database.dispose()


if __name__ == "__main__":
    main()
