"""Measure the ONNX engine on one variant: speed, time to first token, and what HTTP costs.

    python -m benchmarks.engine_onnx FOLDER [--rounds 5] [--new-tokens 96]

One run, interleaved: every round measures each number of concurrent streams and a bare loop over the
same decoder (no HTTP, no text, no sampling), so that whatever else the machine does hits all alike.
Processor time is the engine's own (from /proc), so the load generator beside it does not count.
Prints a table; writes `build/bench/engine-onnx.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
CONCURRENCY = (1, 4, 8)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Numbers = list[float]


@dataclass(frozen=True)
class Load:
    """`prompt_tokens` read and `new_tokens` written by each of `requests` requests a measurement."""

    prompt_tokens: int
    new_tokens: int
    requests: int


@dataclass(frozen=True)
class Sample:
    """One measurement: output tokens per wall and CPU second, times to first token in ms."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    first_token_ms: Numbers


class Engine:
    """An engine process on a free port."""

    def __init__(self, folder: Path, threads: int) -> None:
        command = [sys.executable, "-m", "serving.onnx_engine", str(folder), "--port", "0"]
        command += ["--threads", str(threads), "--exit-with-parent"]
        began_s = time.monotonic()
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("the engine did not start")
        self.ready_s = time.monotonic() - began_s
        said = json.loads(line)
        self.model: str = said["model"]
        self.place = urlsplit(said["url"])

    def cpu_s(self) -> float:
        """Return the processor time taken so far, in seconds."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS_PER_S

    def rss_mib(self) -> float:
        """Return the resident memory in MiB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(timeout=30)
        if self._process.stdout:
            self._process.stdout.close()

    async def ask(self, prompt: list[int], new_tokens: int) -> float:
        """Stream one completion to its end; return the time to its first token in ms."""
        body = json.dumps(
            {
                "model": self.model,
                "prompt": prompt,
                "max_tokens": new_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"continuous_usage_stats": True},
            }
        ).encode()
        reader, writer = await asyncio.open_connection(self.place.hostname, self.place.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        began_s, first_ms = time.perf_counter(), 0.0
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        whole = b""
        while piece := await reader.read(65536):
            if not first_ms and b"data: " in piece:
                first_ms = (time.perf_counter() - began_s) * 1000
            whole = (whole + piece)[-2000:]
        writer.close()
        if b"[DONE]" not in whole or f'"completion_tokens":{new_tokens},'.encode() not in whole:
            raise SystemExit(f"an answer broke off: {whole[-300:]!r}")
        return first_ms


def prompts(load: Load, count: int, seed: int) -> list[list[int]]:
    """Return random prompts, no two alike (a cache must not answer for the model)."""
    chance = random.Random(seed)
    return [[chance.randrange(8, 300) for _ in range(load.prompt_tokens)] for _ in range(count)]


async def streams(engine: Engine, load: Load, at_once: int, seed: int) -> Sample:
    """Answer `load.requests` requests, `at_once` of them open at any time."""
    line = prompts(load, load.requests, seed)
    first_ms: Numbers = []

    async def worker() -> None:
        while line:
            first_ms.append(await engine.ask(line.pop(), load.new_tokens))

    cpu_s, wall_s = engine.cpu_s(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    wall_s, cpu_s = time.perf_counter() - wall_s, engine.cpu_s() - cpu_s
    tokens = load.requests * load.new_tokens
    return Sample(tokens / wall_s, tokens / max(cpu_s, 1 / TICKS_PER_S), first_ms)


def bare_loop(decoder: Any, load: Load, rows: int, seed: int) -> Sample:
    """Do the same work on the decoder alone: prefill in chunks, then greedy steps of `rows` rows."""
    line = prompts(load, load.requests, seed)
    cpu_s, wall_s, first_ms = time.process_time(), time.perf_counter(), []
    while line:
        batch, line = line[:rows], line[rows:]
        began_s, tokens = time.perf_counter(), []
        for row, prompt in enumerate(batch):
            for start in range(0, len(prompt), decoder.chunk_tokens):
                chunk = prompt[start : start + decoder.chunk_tokens]
                logits = decoder.prefill(row, chunk, start)
            tokens.append(int(logits.argmax()))
            first_ms.append((time.perf_counter() - began_s) * 1000)
        for length in range(load.prompt_tokens, load.prompt_tokens + load.new_tokens - 1):
            logits = decoder.step(tokens, [length] * len(batch))
            tokens = logits.argmax(axis=1).tolist()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    count = load.requests * load.new_tokens
    return Sample(count / wall_s, count / cpu_s, first_ms)


def measure(folder: Path, load: Load, rounds: int, threads: int) -> dict[str, Any]:
    """Run all rounds; return the report that is written."""
    from serving.onnx_engine.loading import load as load_model
    from serving.onnx_engine.options import Options

    decoder = load_model(Options(folder, threads=threads)).decoder
    engine = Engine(folder, threads)
    runs: dict[str, Callable[[int], Sample]] = {}
    for width in CONCURRENCY:
        runs[f"engine, {width} at once"] = lambda seed, width=width: asyncio.run(  # type: ignore[misc]
            streams(engine, load, width, seed)
        )
        runs[f"bare loop, {width} rows"] = lambda seed, width=width: bare_loop(  # type: ignore[misc]
            decoder, load, width, seed
        )
    try:
        for run in runs.values():
            run(0)
        samples: dict[str, list[Sample]] = {name: [] for name in runs}
        for place in range(rounds):
            for name, run in runs.items():
                samples[name].append(run(place + 1))
        memory_mib = engine.rss_mib()
    finally:
        engine.stop()
    report = {"environment": environment(folder, load, threads)}
    report["environment"] |= {"ready_s": round(engine.ready_s, 3), "rss_mib": round(memory_mib, 1)}
    return report | {"rows": rows(samples), "ratios": ratios(samples)}


def environment(folder: Path, load: Load, threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "threads": threads,
        "model": manifest["name"],
        "precision": manifest["precision"],
        "graph_sha256": manifest["files"][manifest["graph"]]["sha256"],
        "load": vars(load),
    }


def rows(samples: dict[str, list[Sample]]) -> list[dict[str, Any]]:
    """Return a line for each measured thing: medians over the rounds."""
    return [
        {
            "what": name,
            "tokens_per_s": round(statistics.median(item.tokens_per_s for item in found)),
            "tokens_per_cpu_s": round(statistics.median(item.tokens_per_cpu_s for item in found)),
            **first_token(found),
        }
        for name, found in samples.items()
    ]


def first_token(found: Sequence[Sample]) -> dict[str, float]:
    """Return median and 95th percentile of the time to the first token, in ms."""
    all_ms = sorted(ms for item in found for ms in item.first_token_ms)
    late = all_ms[min(len(all_ms) - 1, int(len(all_ms) * 0.95))]
    return {
        "first_token_ms_p50": round(statistics.median(all_ms), 2),
        "first_token_ms_p95": round(late, 2),
    }


def ratios(samples: dict[str, list[Sample]]) -> dict[str, dict[str, float]]:
    """Return the ratios of the rounds with their spread."""
    pairs = {
        "engine: 8 at once / 1, tokens per s": ("engine, 8 at once", "engine, 1 at once", "wall"),
        "engine: 8 at once / 1, tokens per CPU-s": (
            "engine, 8 at once",
            "engine, 1 at once",
            "cpu",
        ),
        "engine / bare loop at 1, tokens per CPU-s": (
            "engine, 1 at once",
            "bare loop, 1 rows",
            "cpu",
        ),
        "engine / bare loop at 8, tokens per CPU-s": (
            "engine, 8 at once",
            "bare loop, 8 rows",
            "cpu",
        ),
    }
    return {
        name: spread(samples[one], samples[two], kind) for name, (one, two, kind) in pairs.items()
    }


def spread(above: list[Sample], below: list[Sample], kind: str) -> dict[str, float]:
    """Return median, lowest and highest ratio of the rounds, and how many rounds there were."""
    field = "tokens_per_s" if kind == "wall" else "tokens_per_cpu_s"
    found = [getattr(a, field) / getattr(b, field) for a, b in zip(above, below, strict=True)]
    return {
        "median": round(statistics.median(found), 3),
        "low": round(min(found), 3),
        "high": round(max(found), 3),
        "n": len(found),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as two tables."""
    print(f"{'':24}{'tok/s':>8}{'tok/CPU-s':>11}{'first p50':>11}{'p95 ms':>9}")
    for row in report["rows"]:
        print(
            f"{row['what']:24}{row['tokens_per_s']:>8}{row['tokens_per_cpu_s']:>11}"
            f"{row['first_token_ms_p50']:>11}{row['first_token_ms_p95']:>9}"
        )
    print()
    for name, ratio in report["ratios"].items():
        print(f"{name:44}{ratio['median']:>7} ({ratio['low']} to {ratio['high']}, n={ratio['n']})")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    made = argparse.ArgumentParser(description="Measure the ONNX engine on one variant.")
    made.add_argument("folder", type=Path)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--requests", type=int, default=24, help="requests of one measurement")
    made.add_argument("--prompt-tokens", type=int, default=32)
    made.add_argument("--new-tokens", type=int, default=96)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "engine-onnx.json")
    given = made.parse_args(argv)
    load = Load(given.prompt_tokens, given.new_tokens, given.requests)
    report = measure(given.folder, load, given.rounds, given.threads)
    show(report)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
