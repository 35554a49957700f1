"""One process of a race: threads that call, settle, release, refund, lapse and claim as they like.

    python -m tests.support.ledger_racer URL MARK SECONDS THREADS SEED FOLDER

It may be killed at any moment. Each settled call's id is written to FOLDER/answered once it was answered;
FOLDER/ready-PID says that it has begun.
"""

# `support` is importable only once the path is set, below.

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.economy import ORGS, Economy, unhurried
from support.ledger_world import World

from catalog.ground.clock import now_us
from catalog.ground.database import Database
from catalog.ground.errors import TokenMartError
from catalog.ground.ids import ulid
from marketplace.ledger.operations import Release
from marketplace.ledger.sweep import expired_holds
from marketplace.ledger.writer import LedgerWriter
from marketplace.prices.components import Buckets
from marketplace.vouchers import claims, pools
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.returning import lapse
from marketplace.vouchers.service import issue

HOLD_S = 1
_FRESH_S = 2.0


class Racer:
    """What the threads of one process share."""

    def __init__(self, url: str, mark: str, seed: int, folder: Path) -> None:
        self.database = Database(url)
        # The writer stays durable. Of the rest, a killed process loses nothing that the system has.
        unhurried(self.database)
        world = World(self.database, f"racer-{ulid()}")
        self.economy = Economy(self.database, world, mark, now_us())
        self.writer = LedgerWriter(self.database.raw_connection, f"racer-{ulid()}")
        self.random = random.Random(seed)
        self.acknowledged = os.open(folder / "answered", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.settled: list[tuple[str, int]] = []
        self.done: Counter[str] = Counter()
        self._payers: dict[tuple[str, str], tuple[float, object]] = {}
        self._lock = threading.Lock()

    def run(self, until: float) -> None:
        """Do something, again and again."""
        steps = [self.call] * 120 + [self.give_back] * 4
        steps += [self.sweep, self.lapse, self.issue, self.top_up, self.claim]
        while time.monotonic() < until:
            step = self.random.choice(steps)
            try:
                step()
                self.done[step.__name__] += 1
            except TokenMartError as refusal:
                self.done[f"{step.__name__}: {refusal.code}"] += 1
            except Exception as error:
                # The control plane's own transactions may be told to try again; then nothing happened.
                if "OperationalError" not in {parent.__name__ for parent in type(error).__mro__}:
                    raise
                self.done[f"{step.__name__}: again"] += 1

    def call(self) -> None:
        """Hold, and then settle, void, settle twice, or walk away."""
        org, owner = self.random.choice(ORGS), self.random.choice(["maker", "maker", "a"])
        call = self.economy.call(org, *self._payers_of(org, owner), self.random.randrange(1, 120))
        call.id, call.started_at_us = f"gen-{ulid()}", now_us()
        self.writer.submit(call.hold(HOLD_S))
        assert call.plan is not None
        fate = self.random.random()
        if fate < 0.1:
            return
        if fate < 0.2:
            self.writer.submit(Release(call.id, now_us()))
            return
        tokens = call.plan.cost_u * self.random.choice([0, 30, 100, 100, 120]) // 100
        if self.random.random() < 0.02:
            time.sleep(HOLD_S)
        bill = call.settle(Buckets(0, 0, 0, tokens, 0), "{}", "provider", "ok", now_us())
        operation = bill.operation(call, call.id, now_us())
        self.writer.submit(operation)
        os.write(self.acknowledged, f"{call.id}\n".encode())
        self.settled.append((call.id, tokens))
        if fate > 0.9:
            self.writer.submit(operation)

    def _payers_of(self, org: str, owner: str) -> tuple:  # type: ignore[type-arg]
        known = self._payers.get((org, owner))
        if known is None or known[0] < time.monotonic():
            with self._lock:
                self.economy.now = now_us()
                fresh = self.economy.payers(org, owner)
            known = self._payers[org, owner] = (time.monotonic() + _FRESH_S, fresh)
        return known[1]  # type: ignore[return-value]

    def give_back(self) -> None:
        """Refund a part of a call that this process has seen settled."""
        if not self.settled:
            return
        call_id, tokens = self.random.choice(self.settled)
        amount = self.random.randrange(1, max(2, tokens))
        with self.database.session() as session:
            refund(session, f"ref-{ulid()}", call_id, amount, "a race", "clerk", now_us())

    def sweep(self) -> None:
        """Expire what others have left."""
        with self.database.reading() as session:
            overdue = expired_holds(session, now_us())
        for release in overdue:
            self.writer.submit(release)

    def lapse(self) -> None:
        """Return what expired vouchers hold."""
        with self.database.session() as session:
            lapse(session, now_us(), limit=20)

    def issue(self) -> None:
        """Issue a voucher that ends in a moment."""
        org, code = self.random.choice(ORGS), self.random.choice(sorted(Economy.RATIOS))
        made, amount = self.economy.programmes[code], self.random.randrange(1, 60)
        ends = now_us() + self.random.choice([300_000, 2_000_000, 10**12])
        with self.database.session() as session:
            name = self.economy.org(org)
            issue(session, f"iss-{ulid()}", made, name, amount, now_us(), expires_at_us=ends)

    def top_up(self) -> None:
        """A little money for somebody."""
        org = self.random.choice(ORGS)
        world = self.economy.world
        wallet = self.economy.wallet_ids[org]
        self.writer.submit(world.post(f"top-{ulid()}", world.bank, wallet, 400))

    def claim(self) -> None:
        """Claim from one funder what it owes by now, to the end of the road."""
        made = self.economy.programmes[self.random.choice(["city", "district", "later"])]
        with self.database.session() as session:
            part = self.random.choice(list(pools.funders_of(session, made.id)))
            at_us = now_us()
            period = claims.Period("p", 0, at_us)
            row = claims.draft(session, f"clm-{ulid()}", made, part.funder_id, period, "ann", at_us)
            claims.submit(session, row.id, [], "bob", at_us)
            refused = [claims.Verdict(1, False, "no")] if self.random.random() < 0.3 else []
            claims.audit(session, row.id, refused, "cyd", at_us, rest=True)
            claims.settle(session, row.id, f"bank-{row.id}", "dan", at_us)


def main() -> None:
    """Race until the time is over."""
    url, mark, seconds, threads, seed, folder = sys.argv[1:]
    racer = Racer(url, mark, int(seed), Path(folder))
    (Path(folder) / f"ready-{os.getpid()}").touch()
    until = time.monotonic() + float(seconds)
    failures: list[BaseException] = []

    def lane() -> None:
        try:
            racer.run(until)
        except BaseException as error:
            failures.append(error)
            raise

    runners = [threading.Thread(target=lane) for _ in range(int(threads))]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    racer.writer.close()
    for what, times in sorted(racer.done.items()):
        print(f"{what}\t{times}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
