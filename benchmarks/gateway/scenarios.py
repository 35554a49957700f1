"""What is asked of every target, and what one round of it tells."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks.gateway.errors import Refused
from benchmarks.gateway.install import ROOT
from benchmarks.gateway.processes import cpu_s
from benchmarks.gateway.targets import Place, Target

CHUNKS = 64
"""Chunks of a whole stream, and their pace per second and stream."""
CHUNK_RATE = 100.0
_SETTLE_S = 0.2


@dataclass(frozen=True)
class Scenario:
    """A closed loop of so many connections. `max_tokens` bounds a stream's chunks."""

    name: str
    connections: int
    stream: bool = False
    prompt_bytes: int = 250
    max_tokens: int = CHUNKS


ONE = Scenario("1 at once", 1)
MAIN = Scenario("16 at once", 16)
MANY = Scenario("64 at once", 64)
STREAMS = Scenario("64 streams", 64, stream=True)
FIRST = Scenario("first token", 1, stream=True, max_tokens=4)
LONG = Scenario("50 KB prompt", 16, prompt_bytes=50_000)
SCENARIOS = (ONE, MAIN, MANY, STREAMS, FIRST, LONG)


@dataclass(frozen=True)
class Sample:
    """One target in one scenario in one round. `units` are requests, or chunks of streams."""

    units: int
    seconds: float
    cpu_us: float
    database_us: float
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    load_busy: float
    upstream_busy: float

    @property
    def per_s(self) -> float:
        """Units per second of wall time."""
        return self.units / self.seconds


def load(target: Target, scenario: Scenario, seconds: float) -> dict[str, Any]:
    """Run the load generator once; one wrong answer refuses the run."""
    command = [sys.executable, "-m", "benchmarks.gateway.load", target.url, "--key", target.key]
    command += ["--model", target.model, "--connections", str(scenario.connections)]
    command += ["--seconds", str(seconds), "--max-tokens", str(scenario.max_tokens)]
    command += ["--prompt-bytes", str(scenario.prompt_bytes)]
    for header in target.headers:
        command += ["--header", header]
    if scenario.stream:
        command.append("--stream")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise Refused(
            f"{target.name}, {scenario.name}: the load failed: {done.stderr[-600:].strip()}"
        )
    seen: dict[str, Any] = json.loads(done.stdout)
    if seen["errors"] or not seen["requests"]:
        raise Refused(
            f"{target.name}, {scenario.name}: {seen['errors']} of {seen['requests']} calls went wrong "
            f"({seen['first_error']}); a run with a wrong answer tells nothing"
        )
    if scenario.stream and seen["events_fewest"] < scenario.max_tokens:
        raise Refused(
            f"{target.name}, {scenario.name}: a stream had {seen['events_fewest']} events "
            f"where the upstream sent {scenario.max_tokens} chunks"
        )
    return seen


def sample(place: Place, target: Target, scenario: Scenario, seconds: float) -> Sample:
    """Measure a target once: processor time of its tree around a load, per request or per chunk."""
    served = upstream_stats(place)["requests"]
    before = [_cpu_s(pid) for pid in (target.pid, target.database_pid, place.upstream_pid)]
    seen = load(target, scenario, seconds)
    # What a gateway puts off until after the answer belongs to the answer.
    time.sleep(_SETTLE_S)
    after = [_cpu_s(pid) for pid in (target.pid, target.database_pid, place.upstream_pid)]
    reached = upstream_stats(place)["requests"] - served
    if reached < seen["requests"]:
        raise Refused(
            f"{target.name}, {scenario.name}: {seen['requests']} calls were answered and "
            f"{reached} reached the upstream; an answer out of a cache is not measured here"
        )
    own, database, upstream = (b - a for a, b in zip(before, after, strict=True))
    units = seen["requests"] * (scenario.max_tokens if scenario.stream else 1)
    return Sample(
        units=units,
        seconds=seen["seconds"],
        cpu_us=own / units * 1e6,
        database_us=database / units * 1e6,
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        first_byte_p50_ms=seen["first_byte_p50_ms"],
        load_busy=seen["own_cpu_s"] / seen["seconds"],
        upstream_busy=upstream / seen["seconds"],
    )


def upstream_stats(place: Place) -> dict[str, int]:
    """Ask the upstream what it has seen."""
    connection = http.client.HTTPConnection(urlsplit(place.upstream).netloc, timeout=10)
    try:
        connection.request("GET", "/stats")
        stats: dict[str, int] = json.load(connection.getresponse())
        return stats
    finally:
        connection.close()


def _cpu_s(pid: int) -> float:
    return cpu_s(pid) if pid else 0.0
