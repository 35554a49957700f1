"""Feed the compiled part what nobody should, under sanitizers, and hold it against Python.

    make prove-express-parsers [DURATION_S=600] [SEED=1]      (ARGS="--case money:17": one case, told)

The extension is compiled with AddressSanitizer and UndefinedBehaviorSanitizer into a temporary folder; one
process for each processor loads it there. Every case is made by chance from the seed, the chapter and a
number: the chapters are in `tests/support/express_chapters.py`. A difference from what Python itself says,
a report of a sanitizer, a process that dies or whose memory grows: it exits with 1 and names the case.

Then the tests of the compiled part run once more with these sanitizers, gateways and all, and once with
ThreadSanitizer (ARGS=--no-tests: without).
"""

# `support` is importable only once the path is set, below.
# ruff: noqa: E402

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

from support.sanitized import ADDRESSES, THREADS, NoSanitizer, allocated, reports, sanitized

_GROWTH_BYTES = 8 << 20
_NAME_SIZE = 80
_TESTS = "tests/marketplace/gateway/express"
_WITHOUT = [f"--ignore={_TESTS}/test_{name}.py" for name in ("build", "sanitized")]
"""They compile. And PostgreSQL's server would be started with the sanitizer, too."""


def prove(duration_s: float, seed: str, processes: int, case: str = "") -> int:
    """Compile, run, tell; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="tm-express-") as name:
        folder = Path(name)
        environment = os.environ | sanitized(folder)
        print(f"seed {seed}, {processes} processes, {duration_s:.0f} s", flush=True)
        running = [
            _start(
                folder, environment, duration_s, f"{seed}.{number}" if number else str(seed), case
            )
            for number in range(processes)
        ]
        status = max([_end(process, notes) for process, notes in running])
        print(reports(folder), end="", flush=True)
        return status


def run_tests(variant: str) -> int:
    """Run the tests of the compiled part with a sanitizer; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="tm-express-") as name:
        folder = Path(name)
        environment = os.environ | sanitized(folder, variant)
        print(f"{_TESTS}, {variant}:", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--timeout", "900", _TESTS]
        command += [*_WITHOUT, "-k", "not postgresql"]
        done = subprocess.run(command, cwd=ROOT, env=environment)
        told = reports(folder)
        print(told, end="", flush=True)
        return 1 if done.returncode or told else 0


def _start(
    folder: Path, environment: dict[str, str], duration_s: float, seed: str, case: str
) -> tuple[subprocess.Popen[str], Path]:
    notes = folder / f"case-{seed}"
    command = [sys.executable, "-m", "tests.proofs.express_parsers", "--inside"]
    command += ["--duration-s", str(duration_s), "--seed", seed, "--notes", str(notes)]
    process = subprocess.Popen(
        [*command, "--case", case],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, notes


def _end(process: subprocess.Popen[str], notes: Path) -> int:
    told, _ = process.communicate()
    if process.returncode:
        where = notes.read_text().strip() if notes.exists() else "no case"
        print(f"process ended with {process.returncode} in {where}", flush=True)
        told = told[:20_000]  # a sanitizer says what matters first
    print(told, end="", flush=True)
    return 1 if process.returncode else 0


def _inside(options: argparse.Namespace) -> int:
    """Run cases in this process until the time is over."""
    from support.express_chapters import CHAPTERS

    assert sys.modules["marketplace.gateway.express._core"].__file__ == os.environ["OTHER_CORE"]
    ends_at = time.monotonic() + options.duration_s
    played: Counter[str] = Counter()
    settled = 0
    with _noted(options.notes) as note:
        for number in count():
            for name, chapter in CHAPTERS.items():
                if options.case and options.case != f"{name}:{number}":
                    continue
                note(f"seed {options.seed} case {name}:{number}")
                try:
                    chapter(random.Random(f"{options.seed}:{name}:{number}"))
                except Exception:
                    traceback.print_exc(limit=-4)
                    return 1
                played[name] += 1
                if options.case:
                    print("passed")
                    return 0
            if not settled and time.monotonic() > ends_at - 0.75 * options.duration_s:
                settled = allocated()
            if time.monotonic() > ends_at and not options.case:
                break
    grown = allocated() - settled
    print(", ".join(f"{name} {many}" for name, many in played.items()), f"; grown by {grown} bytes")
    if grown > _GROWTH_BYTES:
        print("memory is lost")
        return 1
    return 0


@contextmanager
def _noted(path: Path) -> Iterator[Callable[[str], object]]:
    """Yield a function that leaves a word where another process finds it when this one is gone."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        yield lambda words: os.pwrite(descriptor, words.ljust(_NAME_SIZE).encode(), 0)
    finally:
        os.close(descriptor)


def main() -> int:
    """Read the arguments and the environment."""
    parser = argparse.ArgumentParser(prog="make prove-express-parsers")
    parser.add_argument("--duration-s", type=float)
    parser.add_argument("--seed")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--case", default="", help="chapter:number, as it was told")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _inside(options)
    duration_s = options.duration_s or float(os.environ.get("DURATION_S") or 600)
    seed = options.seed or os.environ.get("SEED") or str(time.time_ns() % 1_000_000)
    try:
        status = prove(duration_s, seed, 1 if options.case else options.processes, options.case)
        if not options.case and not options.no_tests:
            status = max(status, run_tests(ADDRESSES), run_tests(THREADS))
        return status
    except NoSanitizer as missing:
        print(f"This proof needs g++ with its sanitizers: {missing}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
