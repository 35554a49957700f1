"""Send the gateway what no client and no engine should send, and look whether anything gives way.

    make prove-gateway-fuzz [CASES=100000] [DURATION_S=…] [SEED=1]      (ARGS="--case 17": one case, told)

First schemathesis runs over the API description with an operator's key and an ordinary one (skipped with
`--no-api`). Then cases go to the public socket, half of them with SQLite behind and half with PostgreSQL:
malformed bodies, heads, framings and foreign protocols for every model call and for the office, pipelined
mixtures, clients that leave; and behind the listings an engine that sends broken answers and streams, on
plain connections and behind TLS, where it also shows certificates that must not be trusted and shakes hands
as nobody should.

Afterwards: no answer was a 500 or not HTTP, nobody got another's answer, every connection was answered or
closed in time, good calls were answered all the while, no process died or logged an exception, memory and
descriptors are bounded, the ledger proves itself, no hold is left, and nothing was billed beyond its hold.
"""

# `support` is importable only once the path is set, below.
# ruff: noqa: E402

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

import uvloop
from sqlmodel import col, func, select, update
from support.api_description import check_description
from support.fuzz_client import play
from support.fuzz_engine import Engine, trusting
from support.fuzz_requests import Case, World, make, parked, plain
from support.market import Market, environment_of
from support.postgres import create_database, postgres_server

from catalog.ground.clock import now_us
from catalog.ground.ids import ulid
from catalog.ground.marker import raise_marker
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint
from marketplace.ledger.chart import Kind
from marketplace.ledger.tables import Hold, Transfer, UsageEvent
from marketplace.ledger.verify import verify
from marketplace.members.keys import create_key
from marketplace.prices.components import Components

_HOLD_TTL_S = 10
_SILENCE_S = 2.0
_LISTINGS = 32
_AT_ONCE = 64
_MOVES_S = 0.4
"""An engine at a new address is given a new chance, so that broken ones keep being asked."""
_GROWTH_KB = 96 * 1024
_DESCRIPTORS = 400
_SHOWN = 20
_LOST_WORDS = ('  File "', "Exception in callback", "never retrieved", "has ended; it is started")


@dataclass
class Tally:
    """What happened."""

    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    unanswered: int = 0
    good: int = 0
    engine_asked: int = 0
    engine_asked_secure: int = 0
    shakes: int = 0
    compiled: dict[str, int] = field(default_factory=dict)
    """Calls that compiled code has answered (`express`), and those that it gave back (`resumed`)."""
    seconds: float = 0.0
    grown_kb: dict[str, int] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)

    def take(self, case: Case, statuses: list[int], problems: list[str]) -> None:
        """Count a case."""
        self.cases[case.kind.split(" ")[0]] += 1
        self.statuses.update(statuses)
        self.unanswered += not statuses
        told = f"{case.number} {case.kind} {statuses[-3:]}"
        self.failures += [f"case {told}: {problem}" for problem in problems]


class Fuzz:
    """One marketplace, its engine, and the cases that are played against it."""

    def __init__(self, market: Market, seed: int) -> None:
        self.market = market
        self.database = market.database
        self.seed = seed
        self.engine = Engine(market.data_dir / "authority")
        self.tally = Tally(printed=market.printed)
        self.bounds: dict[str, tuple[int, int]] = {}
        self._where = urlsplit(market.url)
        self._host = (self._where.hostname or "", self._where.port or 0)
        self._good: World | None = None
        self.world = World(self._where.netloc, [], [], [])

    async def open(self) -> None:
        """Make what cases need: keys that pay and keys that do not, listings, the office's paths."""
        await self.engine.start()
        await asyncio.to_thread(self._furnish)

    def _furnish(self) -> None:
        market, world = self.market, self.world
        price = Components(input_u_per_m=1_000_000, output_u_per_m=2_000_000)
        org, key = market.organisation(voucher_u=4_000_000_000)
        world.keys = [key, market.organisation(voucher_u=4_000_000_000)[1]]
        world.bad_keys = ["", "tm-wrong", "x" * 3_000, market.organisation()[1]]
        with self.database.session() as session:
            world.keys.append(create_key(session, org, "op", now_us(), operator=True)[1])
        for number in range(_LISTINGS):
            url = self.engine.url(_kind(number), "127.0.0.2")
            context = 256 if number % 2 else 1_000_000
            world.listings.append(market.listing(price, model="m", url=url, context_length=context))
        with self.database.session() as session:
            every_shape = col(Endpoint.listing).in_(world.listings[::3])
            speaks = json.dumps(["responses", "messages"])
            session.execute(update(Endpoint).where(every_shape).values(speaks=speaks))
        urls = [self.engine.url(kind, "127.0.0.9") for kind in ("plain", "secure")]
        good = [market.listing(price, model="m", url=url) for url in urls]
        self._good = World(world.host, [market.organisation(voucher_u=900_000_000)[1]], [], good)
        with urllib.request.urlopen(f"{market.url}/openapi.json") as told:
            described = json.loads(told.read())
        world.office_paths = [
            (method.upper(), path)
            for path, operations in sorted(described["paths"].items())
            for method in operations
            if method != "head"
        ]

    async def run(self, numbers: range, ends_at: float, parks: int) -> None:
        """Play cases until they are through or the time is over."""
        began = time.monotonic()
        helpers = [asyncio.ensure_future(work) for work in (self._move(), self._good_calls())]
        try:
            await self._play(numbers[: len(numbers) // 10], ends_at, 0)
            # What every process needs once is not growth: the first cases were for that.
            before = {pid: _memory_kb(pid) for pid in _processes(self.market)}
            await self._play(numbers[len(numbers) // 10 :], ends_at, parks)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        self.tally.seconds = time.monotonic() - began
        self.tally.engine_asked = self.engine.asked
        self.tally.engine_asked_secure = self.engine.asked_secure
        self.tally.shakes = next(self.engine.shakes)
        await asyncio.sleep(_SILENCE_S + 1)  # until the last connections are given up
        self._compare(before)

    async def _play(self, numbers: range, ends_at: float, parks: int) -> None:
        waiting = iter(numbers)
        stays = [self._one(parked(self.seed, -1 - n, self.world)) for n in range(parks)]
        several = [self._several(waiting, ends_at) for _ in range(_AT_ONCE)]
        await asyncio.gather(*stays, *several)

    async def _several(self, numbers: Iterator[int], ends_at: float) -> None:
        for number in numbers:
            if time.monotonic() > ends_at or len(self.tally.failures) > 200:
                return
            await self._one(make(self.seed, number, self.world))

    async def _one(self, case: Case) -> None:
        self.engine.cases[case.number] = case
        if case.bound[0]:
            body = b"".join(case.pieces).partition(b"\r\n\r\n")[2]
            self.bounds[sha256(body).hexdigest()] = case.bound
        statuses, problems = await play(case, *self._host)
        self.engine.cases.pop(case.number, None)
        self.tally.take(case, statuses, problems)

    async def one(self, number: int) -> None:
        """Play one case and tell all about it."""
        case = make(self.seed, number, self.world)
        print(case, file=sys.stderr)
        await self._one(case)
        print(self.tally, file=sys.stderr)

    async def _good_calls(self) -> None:
        """Call a listing that is in good health, again and again: it must always answer."""
        assert self._good is not None
        number = 10**9
        while True:
            number += 1
            case = plain(number, self._good, streamed=number % 4 < 2)
            statuses, problems = await play(case, *self._host)
            self.tally.good += statuses == [200]
            self.tally.failures += [f"a good call: {statuses} {problem}" for problem in problems]
            await asyncio.sleep(0.2)

    async def _move(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(_MOVES_S)
            turn += 1
            await asyncio.to_thread(self._move_to, f"127.0.0.{2 + turn % 2}")

    def _move_to(self, host: str) -> None:
        of_kind: dict[str, list[str]] = defaultdict(list)
        for number, listing in enumerate(self.world.listings):
            of_kind[_kind(number)].append(listing)
        with self.database.session() as session:
            for kind, listings in of_kind.items():
                session.execute(
                    update(Endpoint)
                    .where(col(Endpoint.listing).in_(listings))
                    .values(url=self.engine.url(kind, host))
                )
            raise_marker(session, ENDPOINTS)

    def _compare(self, before_kb: dict[int, int]) -> None:
        tally, after = self.tally, _processes(self.market)
        if before_kb.keys() != after.keys():
            tally.failures.append(f"processes ended: {before_kb.keys()} became {after}")
        for pid, name in after.items():
            tally.grown_kb[name] = _memory_kb(pid) - before_kb.get(pid, 0)
            tally.descriptors[name] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            if tally.grown_kb[name] > _GROWTH_KB:
                tally.failures.append(f"{name} has grown by {tally.grown_kb[name]} kB")
            if tally.descriptors[name] > _DESCRIPTORS:
                tally.failures.append(f"{name} has {tally.descriptors[name]} descriptors open")
        lost = [line for line in self.market.printed if any(word in line for word in _LOST_WORDS)]
        if lost:
            tally.failures.append(f"{len(lost)} lines of exceptions were logged, first {lost[0]!r}")

    def count_compiled(self) -> None:
        """Take note of what compiled code had to do with it."""
        for name in ("express", "resumed"):
            self.tally.compiled[name] = self.market.counter(name)

    def check_books(self) -> None:
        """Prove the ledger, and that nobody was billed beyond what the call could use."""
        failures, database = self.tally.failures, self.database
        deadline = time.monotonic() + _HOLD_TTL_S + 10
        left = 1
        while left and time.monotonic() < deadline:
            with database.reading() as session:
                left = session.exec(select(func.count()).select_from(Hold)).one()
            time.sleep(0.2 if left else 0)
        if left:
            failures.append(f"{left} holds are left beyond their time")
        failures += [f"ledger: {problem}" for problem in verify(database).problems[:5]]
        with database.reading() as session:
            expired = select(func.count()).where(col(Transfer.kind) == Kind.EXPIRE)
            if number := session.exec(expired).one():
                failures.append(
                    f"{number} legs of holds were left to expire, though nothing crashed"
                )
            for event in session.exec(select(UsageEvent)):
                failures += self._beyond(event)

    def _beyond(self, event: UsageEvent) -> list[str]:
        bound = self.bounds.get(event.request_sha256)
        went_in = event.input_uncached + event.cache_read + event.cache_write
        came_out = event.output + event.reasoning
        if bound is None or (0 <= went_in <= bound[0] and 0 <= came_out <= bound[1]):
            return []
        return [f"{event.id} billed {went_in} + {came_out} tokens of at most {bound}"]


def _kind(number: int) -> str:
    """Return how the engine of the listing with this number is reached: most plainly, many behind TLS."""
    odd = {7: "strange", 15: "stranger", 31: "elsewhere"}
    return odd.get(number % 32) or ("secure" if number % 8 in (1, 3, 6) else "plain")


def _processes(market: Market) -> dict[int, str]:
    """Return the gateway's processes: pid and a name."""
    assert market.process is not None
    found = {market.process.pid: "office"}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == market.process.pid and b"marketplace.gateway.worker" in command:
            found[int(entry.name)] = f"worker {entry.name}"
    return found


def _memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def fuzz(
    market: Market, seed: int, numbers: range, ends_at: float, parks: int, only: int | None = None
) -> Tally:
    """Play `numbers` against a running marketplace, and look at its books afterwards."""
    run = Fuzz(market, seed)
    await run.open()
    try:
        if only is not None:
            await run.one(only)
            return run.tally
        await run.run(numbers, ends_at, parks)
        await asyncio.to_thread(run.check_books)
        await asyncio.to_thread(run.count_compiled)
        return run.tally
    finally:
        await run.engine.stop()
        run.database.dispose()


def environment(data_dir: Path, url: str) -> dict[str, str]:
    """Return the environment of a marketplace whose limits let a fuzz through."""
    limits = ("KEY_RPM", "KEY_CONCURRENCY")
    more = {f"TOKENMART_{name}": "1000000000" for name in limits}
    more |= {f"TOKENMART_ORG_{name}": "0" for name in ("RPM", "TPM", "CONCURRENCY")}
    more["TOKENMART_HOLD_TTL_S"] = str(_HOLD_TTL_S)
    more["TOKENMART_UPSTREAM_SILENCE_S"] = str(_SILENCE_S)
    return environment_of(data_dir, url, **more, **trusting(data_dir / "authority"))


def main() -> int:
    """Read what is asked, run, tell; 1 when anything fell short."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--case", type=int, help="play this one case alone, and show it")
    asked.add_argument("--no-api", action="store_true", help="leave schemathesis out")
    asked.add_argument("--on", choices=("sqlite", "postgresql"), help="only on this database")
    asked.add_argument("--parks", type=int, default=40, help="requests that never end")
    told = asked.parse_args()
    cases = int(os.environ.get("CASES") or 100_000)
    duration_s = float(os.environ.get("DURATION_S") or 3_600)
    seed = int(os.environ.get("SEED") or time.time_ns() % 1_000_000)
    kinds = [told.on] if told.on else ["sqlite", "postgresql"]
    failed = 0
    for number, kind in enumerate(kinds):
        share = range(number * cases // len(kinds), (number + 1) * cases // len(kinds))
        print(f"seed {seed}, cases {share.start} to {share.stop} on {kind}", file=sys.stderr)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prove-fuzz-")))
            url = f"sqlite:///{folder / 'tokenmart.db'}"
            if kind == "postgresql":
                url = create_database(stack.enter_context(postgres_server()), f"f_{ulid().lower()}")
            market = Market(folder, url, environment(folder, url))
            market.start()
            stack.callback(market.stop)
            found: list[str] = []
            if not told.no_api and told.case is None:
                found = check_description(market, seed)
            ends_at = time.monotonic() + duration_s / len(kinds)
            work = fuzz(market, seed, share, ends_at, told.parks, told.case)
            tally = uvloop.run(work)
            tally.failures[:0] = found
        failed += report(kind, tally)
    return 1 if failed else 0


def report(kind: str, tally: Tally) -> int:
    """Print what happened on one database; return how much fell short."""
    played = sum(tally.cases.values())
    print(
        f"{kind}: {played:,} cases in {tally.seconds:.0f} s "
        f"({played / max(1e-9, tally.seconds):.0f} a second), {dict(tally.cases)}; "
        f"answers {dict(sorted(tally.statuses.items()))}, {tally.unanswered:,} closed without one; "
        f"{tally.engine_asked:,} scripts of broken engines played, "
        f"{tally.engine_asked_secure:,} of them behind TLS and {tally.shakes:,} strange handshakes; "
        f"{tally.good:,} good calls between; compiled code: {tally.compiled}; "
        f"memory grown (kB) {tally.grown_kb}, descriptors {tally.descriptors}; "
        f"{len(tally.failures)} failures"
    )
    for failure in tally.failures[:_SHOWN]:
        print(f"FAILED {failure[:2_000]}", file=sys.stderr)
    if not tally.engine_asked_secure:
        print("NOT PROVEN: engines behind TLS (there is no openssl command)", file=sys.stderr)
    if tally.failures:
        kept = ROOT / "build" / "proofs" / f"gateway_fuzz-{kind}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("\n".join(tally.failures) + "\n\n" + "".join(tally.printed))
        print(f"all of them, and what the gateway printed: {kept}", file=sys.stderr)
    return len(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
