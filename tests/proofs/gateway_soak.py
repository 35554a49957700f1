"""Put the gateway under load for minutes and look whether anything grows that should not.

    make prove-gateway-soak DURATION_S=600

One gateway on SQLite, one voucher, 16 plain callers and 16 streams at once, all the time. Every few seconds
the memory and the open descriptors of the office and of the worker are read. After the first fifth (caches
fill) a straight line is fitted to each: what it rises for a million requests must stay under 8 MiB and
under a tenth of what the process has, and no descriptor may stay open. In the end the ledger is proved.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway.__main__ import upstream
from benchmarks.gateway.market import LISTING
from benchmarks.gateway.ours import tokenmart
from benchmarks.gateway.processes import tree
from benchmarks.gateway.scenarios import Scenario, load
from benchmarks.gateway.targets import Target
from catalog.ground.database import Database
from marketplace.ledger.verify import verify

MOST_MIB_A_MILLION = 8.0
MOST_SHARE_A_MILLION = 0.1
MOST_DESCRIPTORS_MORE = 8
_EVERY_S = 5.0
_LOADS = (Scenario("plain", 16), Scenario("streams", 16, stream=True, max_tokens=32))


@dataclass
class Watched:
    """One process: (requests so far, MiB, descriptors) again and again."""

    name: str
    seen: list[tuple[int, float, int]] = field(default_factory=list)

    def settled(self) -> list[tuple[int, float, int]]:
        """Return what was seen after the first fifth."""
        return self.seen[len(self.seen) // 5 :]

    def mib_a_million(self) -> float:
        """Return the slope of memory, MiB for a million requests."""
        seen = self.settled()
        line = statistics.linear_regression([s[0] for s in seen], [s[1] for s in seen])
        return line.slope * 1e6


def main() -> int:
    """Run the soak; 0 when nothing grows."""
    duration_s = float(os.environ.get("DURATION_S") or 600)
    with tempfile.TemporaryDirectory(prefix="tokenmart-soak-") as folder:
        with upstream(Path(folder), True) as place, tokenmart(place) as target:
            watched, requests = _soak(target, duration_s)
        problems = _judge(watched)
        data = target.market.folder / "data" if target.market else Path(folder)
        report = verify(Database(f"sqlite:///{data / 'tokenmart.db'}"))
        problems += report.problems
        if report.open_holds:
            problems.append(f"{report.open_holds} holds are still open")
        print(f"{requests:,} requests, {report.events:,} usage events of {LISTING}, ledger proved")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 1 if problems else 0


def _soak(target: Target, duration_s: float) -> tuple[list[Watched], int]:
    done = [0]
    until = time.monotonic() + duration_s
    failed: list[BaseException] = []
    counting = threading.Lock()

    def keep(scenario: Scenario) -> None:
        try:
            while (left := until - time.monotonic()) > 0:
                served = load(target, scenario, min(5.0, max(1.0, left)))["requests"]
                with counting:
                    done[0] += served
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=keep, args=(scenario,)) for scenario in _LOADS]
    for thread in threads:
        thread.start()
    known: dict[int, Watched] = {}
    while any(thread.is_alive() for thread in threads):
        time.sleep(_EVERY_S)
        for pid in tree(target.pid):
            watched = known.setdefault(pid, Watched(_name(pid)))
            watched.seen.append(
                (done[0], _mib(pid), sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
            )
        told = ", ".join(
            f"{w.name} {w.seen[-1][1]:.1f} MiB {w.seen[-1][2]} fds" for w in known.values()
        )
        print(f"{done[0]:>9,} requests  {told}", flush=True)
    if failed:
        raise failed[0]
    return list(known.values()), done[0]


def _judge(watched: list[Watched]) -> list[str]:
    problems = []
    for process in watched:
        slope, seen = process.mib_a_million(), process.settled()
        last_mib = seen[-1][1]
        more = seen[-1][2] - seen[0][2]
        print(
            f"{process.name}: {last_mib:.1f} MiB, {slope:+.2f} MiB a million requests, {more:+d} fds"
        )
        if slope > min(MOST_MIB_A_MILLION, MOST_SHARE_A_MILLION * last_mib):
            problems.append(f"the {process.name} grows by {slope:.1f} MiB a million requests")
        if more > MOST_DESCRIPTORS_MORE:
            problems.append(f"the {process.name} has {more} descriptors more than at first")
    return problems


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return "worker" if b"gateway.worker" in words else "office"


def _mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
