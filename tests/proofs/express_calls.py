"""Call two gateways by chance, one with compiled code and one without, and look for any difference.

    make prove-express-calls [DURATION_S=600] [SEED=1]      (ARGS="--case 17": one case, told)

Requests are good, odd and broken; so is what their engine answers: whole and in pieces, with usage of every
kind, errors, refusals, streams that break off. Each call goes to both gateways on an account that is busy.
Status, headers, body, what the engine was asked, usage event and transfers have to be the same; afterwards
both ledgers prove themselves. Exits with 1 and names the case where anything differs, or where compiled code
had too little to do.
"""

# `support` is importable only once the path is set, below.
# ruff: noqa: E402

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

from support.express_calls import Case, make
from support.two_gateways import Outcome, Two, two_gateways
from support.upstream import Upstream, upstreams

_LISTINGS = 60
_TRIES = 4
_LEAST = 0.1
"""The share of calls that compiled code serves to their end, at least."""


def prove(duration_s: float, seed: str, only: int | None = None, listings: int = _LISTINGS) -> int:
    """Play cases until the time is over; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="tm-two-") as name, upstreams(3) as engines:
        folder = Path(name)
        with two_gateways(folder, lambda n: f"sqlite:///{folder / n}.db", engines, listings) as two:
            return play(two, time.monotonic() + duration_s, seed, only)


def play(two: Two, ends_at: float, seed: str, only: int | None = None) -> int:
    """Play cases until `ends_at` (monotonic); returns the exit status."""
    played: Counter[str] = Counter()
    for number in count() if only is None else [only]:
        if time.monotonic() > ends_at and only is None:
            break
        case = make(random.Random(f"{seed}/{number}"))
        found = _compare(two, case)
        if isinstance(found, dict):
            print(f"seed {seed} case {number} differs: {case}", flush=True)
            for what, (compiled, plain) in found.items():
                print(f"  {what}\n    compiled {compiled!r}\n    Python   {plain!r}", flush=True)
            return 1
        if only is not None:
            print(f"{case}\n{found}\nthe same")
            return 0
        played["compiled" if found.compiled else "Python's"] += 1
        played[str(found.status)] += 1
        if found.status != 200 or case.fails:
            two.compiled.turn()
            two.plain.turn()
    calls = played["compiled"] + played["Python's"]
    resumed = two.compiled.market.counter("resumed")
    print(f"seed {seed}: {calls} calls, {dict(played)}, {resumed} given back; no difference")
    return 0 if played["compiled"] >= _LEAST * calls else 1


def _compare(two: Two, case: Case) -> Outcome | dict[str, Any]:
    """Return what a call came to, or what is different about it."""

    def prepare(engine: Upstream) -> None:
        engine.reset()
        engine.answer = lambda _: case.reply

    for _ in range(_TRIES):
        for gateway in (two.compiled, two.plain):
            gateway.engine.reset()
        compiled, plain = two.both(case.body, prepare, **case.headers)
        if compiled.charged is plain.charged:
            break  # else a reserve had just ended
    return compiled.unlike(plain) or compiled


def main() -> int:
    """Read the arguments and the environment."""
    parser = argparse.ArgumentParser(prog="make prove-express-calls")
    parser.add_argument("--case", type=int, help="play this one alone, and show it")
    options = parser.parse_args()
    try:
        from marketplace.gateway.express import _core  # noqa: F401
    except ImportError:
        print("There is no compiled code here: docs/express.md", file=sys.stderr)
        return 2
    duration_s = float(os.environ.get("DURATION_S") or 600)
    seed = os.environ.get("SEED") or str(time.time_ns() % 1_000_000)
    return prove(duration_s, seed, options.case)


if __name__ == "__main__":
    sys.exit(main())
