"""From samples to rows, ratios and one table.

A ratio of costs says how many times less processor time this gateway takes than the peer, in the same round;
`chunk_rate_vs_direct` is our delivered chunks per second over what the upstream delivers without us;
`added_ttft_vs_litellm` is the time to the first token that we add over what LiteLLM adds: smaller is better.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gateway.processes import Memory
from benchmarks.gateway.scenarios import (
    FIRST,
    LONG,
    MAIN,
    MANY,
    ONE,
    STREAMS,
    Sample,
)
from benchmarks.gateway.targets import Target

OURS, WATERFALL, POSTGRES, DIRECT = (
    "tokenmart",
    "tokenmart-waterfall",
    "tokenmart-postgres",
    "direct",
)
_PEERS = ("litellm", "portkey", "tensorzero", "passthrough", "nginx")
_FULL = ("litellm", "portkey", "tensorzero")
_TICK_US = 1.0
"""Below this a cost cannot be told from none: /proc counts in hundredths of a second."""


@dataclass
class Samples:
    """Everything measured: by target and scenario, one sample a round, in the order of the rounds."""

    targets: dict[str, Target] = field(default_factory=dict)
    memory: dict[str, list[Memory]] = field(default_factory=dict)
    _found: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    _engine_us: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, target: str, scenario: str, sample: Sample, engine_us: float = 0.0) -> None:
        """Keep the sample of a round, and what an engine that counts apart took for each of its units."""
        self._found.setdefault((target, scenario), []).append(sample)
        self._engine_us.setdefault((target, scenario), []).append(engine_us)

    def of(self, target: str, scenario: str) -> Sequence[Sample]:
        """Return a target's samples in a scenario; none when it was not measured there."""
        return self._found.get((target, scenario), ())

    def engine_us(self, target: str, scenario: str) -> float:
        """Return the median of what the target's engine took; 0 when it has none or was not measured."""
        return statistics.median(self._engine_us.get((target, scenario), [0.0]))

    def paired(
        self, one: str, other: str, scenario: str, worth: Callable[[Sample, Sample], float]
    ) -> list[float]:
        """Return `worth(one, other)` of each round that has both."""
        return [
            worth(a, b)
            for a, b in zip(self.of(one, scenario), self.of(other, scenario), strict=False)
        ]


def ratios(samples: Samples) -> dict[str, dict[str, float]]:
    """Return every ratio whose two sides were measured."""
    found = {
        f"cpu_per_request_vs_{peer}": _times_less(samples, OURS, peer, MAIN.name) for peer in _PEERS
    }
    for peer in _FULL:
        found[f"waterfall_cpu_per_request_vs_{peer}"] = _times_less(
            samples, WATERFALL, peer, MAIN.name
        )
    found["postgres_cpu_per_request_vs_litellm"] = _times_less(
        samples, POSTGRES, "litellm", MAIN.name
    )
    for peer in _PEERS:
        found[f"cpu_per_chunk_vs_{peer}"] = _times_less(samples, OURS, peer, STREAMS.name)
    for peer in _FULL:
        found[f"prompt_50k_cpu_vs_{peer}"] = _times_less(samples, OURS, peer, LONG.name)
    found["chunk_rate_vs_direct"] = samples.paired(
        OURS, DIRECT, STREAMS.name, lambda ours, plain: ours.per_s / plain.per_s
    )
    found["added_ttft_vs_litellm"] = _over(
        added(samples, OURS, FIRST.name, "first_byte_p50_ms"),
        added(samples, "litellm", FIRST.name, "first_byte_p50_ms"),
    )
    for peer in _FULL:
        if peer in samples.memory and OURS in samples.memory:
            found[f"memory_vs_{peer}"] = [_pss(samples, peer) / _pss(samples, OURS)]
    return {name: spread(values) for name, values in found.items() if values}


def added(samples: Samples, target: str, scenario: str, what: str) -> list[float]:
    """Return by how much the target's figure exceeds the upstream's own, round by round."""
    return samples.paired(
        target, DIRECT, scenario, lambda a, b: float(getattr(a, what) - getattr(b, what))
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of the rounds, and how many there were."""
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
        "n": len(values),
    }


def _times_less(samples: Samples, ours: str, peer: str, scenario: str) -> list[float]:
    return samples.paired(
        peer, ours, scenario, lambda theirs, mine: theirs.cpu_us / max(mine.cpu_us, _TICK_US)
    )


def _over(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=False) if b > 0]


def _pss(samples: Samples, target: str) -> float:
    return sum(each.pss_mib for each in samples.memory[target])


def rows(samples: Samples, scenarios: Iterable[str]) -> list[dict[str, Any]]:
    """Return the medians of every target in every scenario, and each process's memory."""
    found: list[dict[str, Any]] = []
    for name in samples.targets:
        found += [
            {"target": name, "scenario": scenario, **_medians(samples, name, scenario, of)}
            for scenario in scenarios
            if (of := samples.of(name, scenario))
        ]
        found += [
            {
                "target": name,
                "process": each.name,
                "rss_mib": round(each.rss_mib, 1),
                "pss_mib": round(each.pss_mib, 1),
            }
            for each in samples.memory.get(name, ())
        ]
    return found


def _medians(
    samples: Samples, name: str, scenario: str, of: Sequence[Sample]
) -> dict[str, float | int | None]:
    def middle(what: str) -> float:
        return round(statistics.median(float(getattr(each, what)) for each in of), 3)

    cpu_us = middle("cpu_us")
    found: dict[str, float | int | None] = {
        "cpu_us": cpu_us,
        "per_core_s": round(1e6 / cpu_us) if cpu_us else None,
        "database_us": middle("database_us"),
        "engine_us": round(samples.engine_us(name, scenario), 3),
        "per_s": middle("per_s"),
        "load_busy": middle("load_busy"),
        "upstream_busy": middle("upstream_busy"),
        "rounds": len(of),
    }
    for what in ("p50_ms", "p99_ms", "first_byte_p50_ms"):
        found[what] = middle(what)
        if more := added(samples, name, scenario, what):
            found[f"added_{what}"] = round(statistics.median(more), 3)
    return found


def show(report: Mapping[str, Any], samples: Samples) -> None:
    """Print the table, the ratios, and what each target did for its figures."""
    console = Console(width=168)
    console.print(_table(report, samples))
    environment = report["environment"]
    console.print(
        f"\nDurable rows (*): an fsync of this disk takes {environment['fsync_ms_p50']:.2f} ms (p50). "
        "cpu: processor time of the whole process tree (litellm: see below). db: that of PostgreSQL. "
        "Costs: medians of rounds that took turns.\n"
    )
    console.print(_headroom(report) + "\n")
    for name, found in report["ratios"].items():
        smaller = "  (ours / theirs: smaller is better)" if name.startswith("added_") else ""
        bounds = f"({found['low']:.3g} to {found['high']:.3g}, n={found['n']})"
        console.print(f"{name:40} {found['median']:>8.3g}  {bounds}{smaller}")
    console.print()
    for name, target in samples.targets.items():
        console.print(f"{name:20} {target.version:38} {target.does}", highlight=False)
        for line in _apart(samples, target):
            console.print(f"{'':20} {line}", highlight=False)
        for each in samples.memory.get(name, ()):
            console.print(
                f"{'':20} {each.name:48} RSS {each.rss_mib:7.1f} MiB  PSS {each.pss_mib:7.1f} MiB",
                highlight=False,
            )
    for name, why in environment["left_out"].items():
        console.print(f"{name:20} left out: {why}", highlight=False)


def _apart(samples: Samples, target: Target) -> list[str]:
    """Return what was left out of a target's cost, and what it has written down by its end."""
    lines = []
    if target.engine_pid:
        engine_us = samples.engine_us(target.name, MAIN.name)
        lines.append(
            f"not counted, per request: {engine_us:,.0f} us of its query engine, and db us"
        )
    if target.booked and target.booked.rows:
        log = f"{target.booked.rows:,} calls of {target.booked.log_usd:.4f} dollars in its log"
        lines.append(f"at its end: {log}, {target.booked.key_usd:.4f} dollars spent by its key")
    return lines


def _headroom(report: Mapping[str, Any]) -> str:
    """Return whether the load or the upstream were a limit: how busy they were behind metered gateways."""
    metered = [
        row for row in report["rows"] if row["target"] not in (DIRECT, "nginx") and "per_s" in row
    ]
    if not metered:
        return ""
    load, upstream = (max(row[what] for row in metered) for what in ("load_busy", "upstream_busy"))
    return (
        f"Behind gateways other than nginx the load generator took at most {load:.0%} of a core "
        f"and the upstream {upstream:.0%}."
    )


def _table(report: Mapping[str, Any], samples: Samples) -> Table:
    of = {(row["target"], row.get("scenario")): row for row in report["rows"]}
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("target", no_wrap=True)
    for name in (
        "cpu us\nrequest",
        "db us\nrequest",
        "requests/s\nper core",
        "added p50/p99 ms\n1 at once",
        "added p50/p99 ms\n16 at once",
        "added p50/p99 ms\n64 at once",
        "cpu us\nchunk",
        "chunks/s\nper core",
        "rate vs\ndirect",
        "added ms\n1st token",
        "cpu us\n50 KB",
        "PSS\nMiB",
    ):
        table.add_column(name, justify="right")
    for name, target in samples.targets.items():
        main, streams = of.get((name, MAIN.name), {}), of.get((name, STREAMS.name), {})
        rate = samples.paired(name, DIRECT, STREAMS.name, lambda a, b: a.per_s / b.per_s)
        table.add_row(
            name + ("*" if target.durable else ""),
            _shown(main.get("cpu_us")),
            _shown(main.get("database_us") if target.database_pid else None),
            _shown(main.get("per_core_s")),
            *(_latency(name, of.get((name, scenario.name), {})) for scenario in (ONE, MAIN, MANY)),
            _shown(streams.get("cpu_us")),
            _shown(streams.get("per_core_s")),
            f"{statistics.median(rate):.3f}" if rate else "",
            _shown(of.get((name, FIRST.name), {}).get("added_first_byte_p50_ms")),
            _shown(of.get((name, LONG.name), {}).get("cpu_us")),
            _shown(_pss(samples, name) if name in samples.memory else None),
        )
    return table


def _latency(name: str, row: Mapping[str, Any]) -> str:
    """Return what the target adds to the upstream's latency; for the upstream, its own in brackets."""
    if "p50_ms" not in row:
        return ""
    if name == DIRECT:
        return f"({_shown(row['p50_ms'])} / {_shown(row['p99_ms'])})"
    return f"{_shown(row['added_p50_ms'])} / {_shown(row['added_p99_ms'])}"


def _shown(value: float | None) -> str:
    if not value:
        return ""
    return (
        f"{value:,.2f}"
        if abs(value) < 10
        else f"{value:,.1f}"
        if abs(value) < 100
        else f"{value:,.0f}"
    )
