"""Put the gateway under load for minutes and look whether anything grows that should not.

    make prove-gateway-soak DURATION_S=600

One gateway on SQLite, one voucher, 16 plain callers and 16 streams at once, all the time. Every few seconds
the memory and the open descriptors of the office and of the worker are read.

What fills up once is no growth, and two things do. Every connection to SQLite keeps pages of the database in
memory, up to a fixed size (6 MiB in the worker, 16 MiB in each of the office's). And the worker looks for
garbage in cycles only when 50,000 objects have come together: until it has looked for the first time, which
takes some 100,000 to 140,000 requests of this load, it rises by about 8 MiB. So growth is counted from when a
fifth of the time has passed, 150,000 requests have been served, and the database has more than twice as many
bytes as the largest page cache; when that was is told. From there a straight line is fitted to each process:
what it rises for a million requests must stay under 8 MiB and under a tenth of what the process has, and no
descriptor may stay open. Less than 15 seconds after that is no measurement.
In the end the ledger is proved.
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
from typing import NamedTuple

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
_EVERY_S = 2.0
_LARGEST_CACHE_MIB = 16
"""The page cache of one connection (`catalog.ground.driver`, PRAGMA cache_size)."""
_WARM_MIB = 2 * _LARGEST_CACHE_MIB
_WARM_REQUESTS = 150_000
"""After so many the worker's collector has run at least once (`marketplace.gateway.worker`, _COLLECT_AT)."""
_LEAST_S = 15.0
_LOADS = (Scenario("plain", 16), Scenario("streams", 16, stream=True, max_tokens=32))


class Seen(NamedTuple):
    """One process at one moment; `requests` is what the gateway had served until then."""

    at_s: float
    requests: int
    mib: float
    descriptors: int


@dataclass
class Watched:
    """One process, seen again and again."""

    name: str
    seen: list[Seen] = field(default_factory=list)

    def since(self, at_s: float) -> list[Seen]:
        """Return what was seen from a moment on."""
        return [one for one in self.seen if one.at_s >= at_s]


def mib_a_million(seen: list[Seen]) -> tuple[float, float]:
    """Return the slope of memory in MiB for a million requests, and its standard error."""
    requests, mib = [one.requests / 1e6 for one in seen], [one.mib for one in seen]
    line = statistics.linear_regression(requests, mib)
    rests = [m - line.intercept - line.slope * r for r, m in zip(requests, mib, strict=True)]
    mean = statistics.fmean(requests)
    spread = sum((r - mean) ** 2 for r in requests)
    return line.slope, (sum(rest**2 for rest in rests) / (len(seen) - 2) / spread) ** 0.5


def main() -> int:
    """Run the soak; 0 when nothing grows."""
    duration_s = float(os.environ.get("DURATION_S") or 600)
    with tempfile.TemporaryDirectory(prefix="tokenmart-soak-") as folder:
        with upstream(Path(folder), True) as place, tokenmart(place) as target:
            data = target.market.folder / "data" if target.market else Path(folder)
            watched, requests, warm_s = _soak(target, duration_s, data / "tokenmart.db")
        problems = _judge(watched, warm_s, duration_s)
        report = verify(Database(f"sqlite:///{data / 'tokenmart.db'}"))
        problems += report.problems
        if report.open_holds:
            problems.append(f"{report.open_holds} holds are still open")
        print(f"{requests:,} requests, {report.events:,} usage events of {LISTING}, ledger proved")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 1 if problems else 0


def _soak(
    target: Target, duration_s: float, database: Path
) -> tuple[list[Watched], int, float | None]:
    """Return the processes, the requests served, and after how many seconds all were warm."""
    done = [0]
    began = time.monotonic()
    until = began + duration_s
    failed: list[BaseException] = []
    counting = threading.Lock()

    def keep(scenario: Scenario) -> None:
        try:
            while (left := until - time.monotonic()) > 0:
                served = load(target, scenario, min(_EVERY_S, max(1.0, left)))["requests"]
                with counting:
                    done[0] += served
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=keep, args=(scenario,)) for scenario in _LOADS]
    for thread in threads:
        thread.start()
    known: dict[int, Watched] = {}
    warm_s: float | None = None
    while any(thread.is_alive() for thread in threads):
        time.sleep(_EVERY_S)
        at_s = time.monotonic() - began
        for pid in tree(target.pid):
            descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            watched = known.setdefault(pid, Watched(_name(pid)))
            watched.seen.append(Seen(at_s, done[0], _mib(pid), descriptors))
        size_mib = database.stat().st_size / 2**20
        warm = size_mib > _WARM_MIB and done[0] >= _WARM_REQUESTS and at_s >= duration_s / 5
        if warm_s is None and warm:
            warm_s = at_s
            print(
                f"growth is counted from here: after {at_s:.0f} s, {done[0]:,} requests and a database of "
                f"{size_mib:.0f} MiB page caches are full and garbage has been looked for"
            )
        told = ", ".join(
            f"{w.name} {w.seen[-1].mib:.1f} MiB {w.seen[-1].descriptors} fds"
            for w in known.values()
        )
        print(f"{done[0]:>9,} requests  {told}", flush=True)
    if failed:
        raise failed[0]
    return list(known.values()), done[0], warm_s


def _judge(watched: list[Watched], warm_s: float | None, duration_s: float) -> list[str]:
    if warm_s is None or duration_s - warm_s < _LEAST_S:
        return [
            f"page caches were full, and garbage looked for, after {warm_s} s of {duration_s:.0f} s: "
            f"what grows is seen only {_LEAST_S:.0f} s later (DURATION_S=)"
        ]
    problems = []
    for process in watched:
        seen, first = process.since(warm_s), process.seen[0]
        slope, error = mib_a_million(seen)
        last, more = seen[-1], seen[-1].descriptors - seen[0].descriptors
        print(
            f"{process.name}: {last.mib:.1f} MiB; {seen[0].mib - first.mib:+.1f} MiB before it was "
            f"warm; since then, over {last.requests - seen[0].requests:,} requests, {slope:+.2f} ± "
            f"{2 * error:.2f} MiB a million requests, {more:+d} fds"
        )
        if slope > min(MOST_MIB_A_MILLION, MOST_SHARE_A_MILLION * last.mib):
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
