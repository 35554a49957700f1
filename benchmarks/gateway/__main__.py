"""The gateway beside its peers (`make bench-gateway`): one interleaved run, one table of ratios.

    python -m benchmarks.gateway [--seconds 1.25] [--rounds 5] [--targets NAME,…] [--offline]

Starts an upstream that answers at once, this gateway three times (one voucher, a waterfall, PostgreSQL) and
the peers, then goes round: in every round each scenario asks each target in turn. The main figure is
processor time of a gateway's whole process tree per request, or per chunk of a stream. Missing peers are
installed first (`--offline`: left out); the measurement itself needs no network. One wrong answer from
anybody refuses the run: exit 1 and no report. Writes `build/bench/gateway.json`.
`docs/benchmarks-gateway.md` tells the method. LiteLLM takes part with its database where that can be had;
`--targets tokenmart,litellm,litellm-no-database` shows what the database costs it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gateway import litellm, ours, peers
from benchmarks.gateway.errors import NotInstalled, Refused
from benchmarks.gateway.install import ROOT, install
from benchmarks.gateway.processes import cpu_s, fsync_ms_p50, memory, started
from benchmarks.gateway.report import DIRECT, POSTGRES, WATERFALL, Samples, ratios, rows, show
from benchmarks.gateway.scenarios import (
    CHUNK_RATE,
    CHUNKS,
    MAIN,
    SCENARIOS,
    STREAMS,
    Scenario,
    load,
    sample,
)
from benchmarks.gateway.targets import Place, Starter, Target, written

OUT = Path("build/bench/gateway.json")
TARGETS: dict[str, Starter] = {
    "direct": peers.direct,
    "nginx": peers.nginx,
    "passthrough": peers.passthrough,
    "tokenmart": ours.tokenmart,
    "tokenmart-waterfall": ours.waterfall,
    "tokenmart-postgres": ours.postgres,
    "tensorzero": peers.tensorzero,
    "portkey": peers.portkey,
    litellm.LITELLM: litellm.litellm,
    litellm.WITHOUT_DATABASE: litellm.without_database,
}
# Only when asked for: it answers a question of its own, and LiteLLM takes half a round.
_ON_REQUEST = {litellm.WITHOUT_DATABASE}
_LIMIT_S = 570.0
_WARM_S = 1.0
_talk = Console(stderr=True)


@contextmanager
def upstream(folder: Path, offline: bool) -> Iterator[Place]:
    """Run the upstream; yield the place for everybody who is measured in front of it."""
    place = folder / "upstream"
    place.mkdir()
    command = [sys.executable, "-m", "benchmarks.gateway.mock", "--chunks", str(CHUNKS)]
    command += ["--chunk-rate", str(CHUNK_RATE)]
    with started(command, place, {"PYTHONPATH": str(ROOT)}) as process:
        said = written(place / "output.log", place, process)
        yield Place(folder, json.loads(said)["url"], process.pid, offline)


def _start(
    names: list[str], place: Place, stack: ExitStack
) -> tuple[dict[str, Target], dict[str, str]]:
    """Start the targets, some at a time; return those that answer, and why others were left out."""

    def one(name: str) -> tuple[str, Target | None, str]:
        own = ExitStack()
        stack.push(own)
        try:
            return name, own.enter_context(TARGETS[name](place)), ""
        except NotInstalled as error:
            return name, None, str(error)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(one, names))
    running = {name: target for name, target, _ in found if target is not None}
    return running, {name: why for name, target, why in found if target is None}


def _warm(targets: dict[str, Target], seconds: float) -> None:
    """Let everybody import, compile and connect; and see that our callers pay as they are meant to."""
    for target in targets.values():
        for scenario in (MAIN, STREAMS):
            load(target, scenario, seconds)
        if target.market and (legs := target.market.legs()) != target.legs:
            raise Refused(f"{target.name}: {legs} accounts paid for a call, not {target.legs}")


def _takes_part(name: str, scenario: Scenario) -> bool:
    """Variants are measured where they differ: at the main figure and in streams."""
    return scenario in (MAIN, STREAMS) or name not in (WATERFALL, POSTGRES, *_ON_REQUEST)


def _measure(
    place: Place, targets: dict[str, Target], given: argparse.Namespace, began: float
) -> Samples:
    """Go round until the rounds are done, or another one would not fit into ten minutes."""
    samples = Samples(targets)
    longest = 0.0
    for number in range(given.rounds):
        started_at = time.monotonic()
        if number and started_at - began + longest > _LIMIT_S:
            _talk.print(f"no time for more than {number} of {given.rounds} rounds")
            break
        _talk.print(f"round {number + 1} of {given.rounds}")
        # Another order every round: nobody always runs after the same neighbour.
        order = list(targets)
        order = order[number % len(order) :] + order[: number % len(order)]
        for scenario in SCENARIOS:
            for name in order:
                if _takes_part(name, scenario):
                    before_s = _engine_s(targets[name])
                    one = sample(place, targets[name], scenario, given.seconds)
                    engine_us = (_engine_s(targets[name]) - before_s) / one.units * 1e6
                    samples.add(name, scenario.name, one, engine_us)
        longest = max(longest, time.monotonic() - started_at)
    samples.memory = {name: memory(t.pid) for name, t in targets.items() if t.pid}
    return samples


def _engine_s(target: Target) -> float:
    return cpu_s(target.engine_pid) if target.engine_pid else 0.0


def _environment(
    given: argparse.Namespace, targets: dict[str, Target], left_out: dict[str, str], fsync_ms: float
) -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fsync_ms_p50": round(fsync_ms, 3),
        "seconds": given.seconds,
        "rounds": given.rounds,
        "chunks": CHUNKS,
        "chunk_rate": CHUNK_RATE,
        "versions": {name: target.version for name, target in targets.items() if target.version},
        "does": {name: target.does for name, target in targets.items()},
        "left_out": left_out,
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def run(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Samples]:
    """Start everything, measure, stop everything; return the report and its samples."""
    names = [name for name in TARGETS if name in given.targets or name == DIRECT]
    left_out = install(names, given.offline)
    names = [name for name in names if name not in left_out]
    began = time.monotonic()
    with ExitStack() as stack:
        place = stack.enter_context(upstream(folder, given.offline))
        _talk.print("starting " + ", ".join(names))
        targets, more = _start(names, place, stack)
        _warm(targets, min(_WARM_S, given.seconds))
        fsync_ms = [fsync_ms_p50(folder)]
        samples = _measure(place, targets, given, began)
        fsync_ms.append(fsync_ms_p50(folder))
        environment = _environment(given, targets, left_out | more, statistics.mean(fsync_ms))
    # What a gateway writes when it ends is written by now.
    environment["booked"] = {
        name: asdict(target.booked) for name, target in targets.items() if target.booked
    }
    report = {
        "environment": environment,
        "rows": rows(samples, [scenario.name for scenario in SCENARIOS]),
        "ratios": ratios(samples),
    }
    return report, samples


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.gateway", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=1.25, help="load on one target at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--targets",
        type=lambda text: text.split(","),
        default=[name for name in TARGETS if name not in _ON_REQUEST],
        help="of " + ",".join(TARGETS),
    )
    parser.add_argument("--offline", action="store_true", help="leave out what is not installed")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"unknown targets: {', '.join(sorted(unknown))}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    scratch = given.out.parent.resolve()
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-", dir=scratch) as folder:
            report, samples = run(given, Path(folder))
    except Refused as refusal:
        _talk.print(f"[bold]refused:[/bold] {refusal}", highlight=False)
        return 1
    given.out.write_text(json.dumps(report, indent=2) + "\n")
    show(report, samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
