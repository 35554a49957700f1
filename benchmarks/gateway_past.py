"""Does the gateway get slower with the years? One load on an empty ledger and on one with millions of calls.

    make bench-gateway-past ARGS="--events 10000000"

Both gateways run at the same time and take turns under load (16 plain callers, durable, one voucher), so
what the machine does meanwhile meets both. Ten million calls take about 10 GB of disk and a quarter of an
hour to book.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gateway.__main__ import upstream
from benchmarks.gateway.ours import tokenmart, with_past
from benchmarks.gateway.scenarios import MAIN, load, sample

OUT = Path("build/bench/gateway-past.json")


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def measure(events: int, rounds: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Return the report: rows by ledger, and ratios of the old ledger to the empty one."""
    talk = Console(stderr=True)
    with ExitStack() as stack:
        place = stack.enter_context(upstream(folder, True))
        talk.print(f"booking {events:,} past calls")
        old = stack.enter_context(with_past(place, events))
        new = stack.enter_context(tokenmart(place))
        for target in (old, new):
            load(target, MAIN, seconds)
        samples = []
        for number in range(rounds):
            talk.print(f"round {number + 1} of {rounds}")
            both = {}
            for target in (old, new) if number % 2 else (new, old):
                both[target.name] = sample(place, target, MAIN, seconds)
            samples.append((both[old.name], both[new.name]))
    return {
        "environment": {"events": events, "rounds": rounds, "seconds": seconds},
        "rows": [
            {
                "ledger": name,
                "requests_per_s": statistics.median(pair[at].per_s for pair in samples),
                "cpu_us": statistics.median(pair[at].cpu_us for pair in samples),
                "p50_ms": statistics.median(pair[at].p50_ms for pair in samples),
            }
            for at, name in enumerate((f"{events:,} past calls", "empty"))
        ],
        "ratios": {
            "throughput_with_past": _spread([a.per_s / b.per_s for a, b in samples]),
            "cpu_with_past": _spread([a.cpu_us / b.cpu_us for a, b in samples]),
        },
    }


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(prog="benchmarks.gateway_past")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="past-", dir=OUT.parent.resolve()) as folder:
        report = measure(given.events, given.rounds, given.seconds, Path(folder))
    OUT.write_text(json.dumps(report, indent=2) + "\n")
    show = Console()
    for row in report["rows"]:
        show.print(
            f"{row['ledger']:>24}  {row['requests_per_s']:8,.0f} requests/s  "
            f"{row['cpu_us']:6.0f} CPU us  p50 {row['p50_ms']:.2f} ms"
        )
    for name, ratio in report["ratios"].items():
        show.print(f"{name}: {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})")


if __name__ == "__main__":
    main()
