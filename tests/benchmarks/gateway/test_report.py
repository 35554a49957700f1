"""Ratios pair rounds, and what was not measured has none."""

from __future__ import annotations

import pytest

from benchmarks.gateway.processes import Memory
from benchmarks.gateway.report import Samples, ratios, rows, show
from benchmarks.gateway.scenarios import FIRST, MAIN, SCENARIOS, STREAMS, Sample
from benchmarks.gateway.targets import Booked, Target


def one(cpu_us: float, *, per_s: float = 100, first_byte_ms: float = 1) -> Sample:
    return Sample(
        units=int(per_s),
        seconds=1.0,
        cpu_us=cpu_us,
        database_us=0,
        p50_ms=first_byte_ms,
        p99_ms=2 * first_byte_ms,
        first_byte_p50_ms=first_byte_ms,
        load_busy=0.1,
        upstream_busy=0.1,
    )


def measured(*names: str) -> Samples:
    return Samples({name: Target(name, "", 0, "1", "does") for name in names})


def test_costs_are_compared_round_by_round() -> None:
    samples = measured("tokenmart", "litellm")
    for ours, theirs in ((100, 10_000), (200, 10_000), (100, 30_000)):
        samples.add("tokenmart", MAIN.name, one(ours))
        samples.add("litellm", MAIN.name, one(theirs))
    found = ratios(samples)
    assert found == {"cpu_per_request_vs_litellm": {"median": 100, "low": 50, "high": 300, "n": 3}}


def test_rate_and_first_token_are_compared_with_the_upstream_alone() -> None:
    samples = measured("direct", "tokenmart", "litellm")
    for name, per_s in (("direct", 6400), ("tokenmart", 6336)):
        samples.add(name, STREAMS.name, one(30, per_s=per_s))
    for name, first_ms in (("direct", 1), ("tokenmart", 2), ("litellm", 51)):
        samples.add(name, FIRST.name, one(30, first_byte_ms=first_ms))
    found = ratios(samples)
    assert found["chunk_rate_vs_direct"]["median"] == pytest.approx(0.99)
    assert found["added_ttft_vs_litellm"]["median"] == pytest.approx(1 / 50)


def test_the_table_shows_every_target_and_who_was_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = measured("direct", "tokenmart")
    for name in samples.targets:
        for scenario in SCENARIOS:
            samples.add(name, scenario.name, one(0 if name == "direct" else 400))
    samples.memory["tokenmart"] = [Memory("worker", 30, 20), Memory("front", 10, 5)]
    found = rows(samples, [scenario.name for scenario in SCENARIOS])
    environment = {"fsync_ms_p50": 0.5, "left_out": {"portkey": "no Node here"}}
    show({"environment": environment, "rows": found, "ratios": ratios(samples)}, samples)
    printed = capsys.readouterr().out
    assert "2,500" in printed
    assert "no Node here" in printed
    assert "worker" in printed
    ours = [row for row in found if row["target"] == "tokenmart"]
    assert [row["scenario"] for row in ours if "scenario" in row] == [s.name for s in SCENARIOS]
    assert [row["process"] for row in ours if "process" in row] == ["worker", "front"]


def test_what_is_left_out_of_a_cost_and_what_was_booked_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    does = "only its own process counts"
    booked = Booked(rows=321, log_usd=0.2385, key_usd=0.2385)
    samples = measured("direct")
    samples.targets["litellm"] = Target("litellm", "", 1, "1", does, engine_pid=2, booked=booked)
    for engine_us in (900, 1000, 5000):
        samples.add("direct", MAIN.name, one(0))
        samples.add("litellm", MAIN.name, one(14_000), engine_us)
    found = rows(samples, [MAIN.name])
    assert [(row["cpu_us"], row["engine_us"]) for row in found] == [(0, 0), (14_000, 1000)]
    environment = {"fsync_ms_p50": 0.5, "left_out": {"litellm's database": "not there"}}
    show({"environment": environment, "rows": found, "ratios": {}}, samples)
    printed = " ".join(capsys.readouterr().out.split())
    assert does in printed
    assert "not counted, per request: 1,000 us of its query engine" in printed
    assert "321 calls of 0.2385 dollars in its log, 0.2385 dollars spent by its key" in printed
    assert "litellm's database left out: not there" in printed
