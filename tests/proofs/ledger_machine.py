"""Let the random walk through public money go on for long: more walks, longer ones, one seed after another.

    make prove-ledger-machine [DURATION_S=600] [SEED=1]

Every seed is walked on SQLite and on PostgreSQL, `LEDGER_EXAMPLES` walks of `LEDGER_STEPS` steps each.
What the walk does and what it checks is told by `tests/support/ledger_machine.py`. Exit 1 at the first
seed that fails; LEDGER_SHRINK=1 then looks for the shortest story.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEST = "tests/marketplace/ledger/test_machine.py"
_LONG = {"LEDGER_EXAMPLES": "40", "LEDGER_STEPS": "60"}


def main() -> None:
    """Walk seed after seed until the time is over; see the module's own words."""
    duration_s = float(os.environ.get("DURATION_S") or 600)
    seed = first = int(os.environ.get("SEED") or time.time_ns() % 10**6)
    ends = time.monotonic() + duration_s
    while time.monotonic() < ends:
        began = time.monotonic()
        command = [
            sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
            "-o", "timeout=0", f"--hypothesis-seed={seed}", TEST,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, env=_LONG | os.environ, capture_output=True, text=True
        )
        print(f"seed {seed}: exit {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
        if done.returncode:
            print(done.stdout)
            sys.exit(1)
        seed += 1
    print(f"{seed - first} seeds from {first} on, on both databases: no invariant was broken")


if __name__ == "__main__":
    main()
