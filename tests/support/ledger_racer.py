"""One process of a race: threads that call, settle, release, refund, lapse, claim and pay as they like.

    python -m tests.support.ledger_racer URL MARK SECONDS THREADS SEED FOLDER

It may be killed at any moment. Each settled or charged call's id is written to FOLDER/answered once it was
answered, what else the ledger told of charges and reserves to FOLDER/told; FOLDER/ready-PID says that it has
begun.
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
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlmodel import Session, col, select
from support.economy import ORGS, OWNERS, Economy, unhurried
from support.ledger_world import World

from catalog.ground.clock import SECOND_US, now_us
from catalog.ground.database import Database
from catalog.ground.errors import Conflict, PaymentRequired, TokenMartError
from catalog.ground.ids import ulid
from marketplace.gateway.money import Bill, Call
from marketplace.ledger.accounts import take_control
from marketplace.ledger.operations import Available, Done, Hold, Leg, Rehold, Release
from marketplace.ledger.sweep import expired_holds
from marketplace.ledger.writer import LedgerWriter
from marketplace.payouts import files, service
from marketplace.payouts.accruals import accrue, mature
from marketplace.prices.components import Buckets
from marketplace.vouchers import claims, pools
from marketplace.vouchers.caps import Against
from marketplace.vouchers.granting import Order, caps_for, issue_grants, sized
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.returning import lapse
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Claim

HOLD_S = 1
SCALE = 1000
"""Pools and caps last for the race; grants and wallets stay small, and run dry all the time."""
_FRESH_S = 2.0
_AT_ONCE = 8
"""Threads of a process that may use the pooled connections: a pool has fewer than a race has threads."""


class Aside(NamedTuple):
    """A reserve of an organisation's wallet. Whoever takes it from the list is alone with it."""

    tx: str
    org: str
    amount: int


class Racer:
    """What the threads of one process share."""

    def __init__(self, url: str, mark: str, seed: int, folder: Path) -> None:
        self.database = Database(url)
        # The writer stays durable. Of the rest, a killed process loses nothing that the system has.
        unhurried(self.database)
        world = World(self.database, f"racer-{ulid()}")
        self.economy = Economy(self.database, world, mark, now_us(), SCALE)
        self.writer = LedgerWriter(self.database.raw_connection, f"racer-{ulid()}")
        self.random = random.Random(seed)
        self.acknowledged = os.open(folder / "answered", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.told = os.open(folder / "told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.reserves: list[Aside] = []
        self.settled: list[tuple[str, int]] = []
        self.done: Counter[str] = Counter()
        self._payers: dict[tuple[str, str], tuple[float, object]] = {}
        self._lock = threading.Lock()
        self._control = threading.BoundedSemaphore(_AT_ONCE)

    def run(self, until: float) -> None:
        """Do something, again and again."""
        often = [self.give_back, self.issue, self.decide]
        steps = often * 6 + [self.claim, self.top_up] * 4
        steps += [self.sweep, self.lapse, self.jobs, self.pay] * 2
        while time.monotonic() < until:
            calls = (self.call, self.call, self.call_aside)
            step = self.random.choice(calls if self.random.random() < 0.7 else steps)
            try:
                if step in calls:
                    step()
                else:
                    with self._control:
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
        org, owner = self.random.choice(ORGS), self.random.choice(["maker", "maker", "a", "kin"])
        record, payer = self._payers_of(org, owner)
        tokens, name = self.random.randrange(1, 120), f"gen-{ulid()}"
        call = self.economy.call(org, record, payer, tokens, name)
        call.started_at_us = now_us()
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

    def call_aside(self) -> None:
        """Charge a call beside a reserve or out of it; or shrink the reserve, give it up, walk away."""
        aside = self._aside()
        fate = self.random.random()
        if fate < 0.05:
            return
        if fate < 0.1:
            self.writer.submit(Release(aside.tx, now_us()))
            return
        if fate < 0.2:
            self._shrink(aside, self.random.randrange(aside.amount + 1))
            return
        planned = self._planned(aside)
        if planned is None:
            self._keep(aside)
            return
        call, bill = planned
        try:
            if fate < 0.4:
                raise PaymentRequired("Not even tried.")
            self.writer.submit(bill.charge(call))
        except PaymentRequired:
            self._charge_out_of(aside, call, bill)
        else:
            self._keep(aside)
            self._charged(call, bill)
        if fate > 0.9:
            self._again(call, bill)

    def _aside(self) -> Aside:
        """Take a reserve of this process, or make one of a part of somebody's wallet."""
        with self._lock:
            if len(self.reserves) > 3:
                return self.reserves.pop(self.random.randrange(len(self.reserves)))
        org, name, at_us = self.random.choice(ORGS), f"res_{ulid()}", now_us()
        account, part = self.economy.wallet_ids[org], self.random.choice([1, 2, 4])
        clearing = self.economy.books.clearing
        held: list[int] = []

        def decide(available: Available) -> tuple[tuple[Leg, ...], str]:
            held[:] = [available[account] // part]
            return (Leg(account, held[0], clearing),), "{}"

        until_us = at_us + HOLD_S * SECOND_US
        hold = Hold(name, self.economy.org(org), (account,), decide, at_us, until_us)
        self.writer.submit(hold)
        return Aside(name, org, held[0])

    def _keep(self, aside: Aside) -> None:
        with self._lock:
            self.reserves.append(aside)

    def _planned(self, aside: Aside) -> tuple[Call, Bill] | None:
        """Plan a call that the reserve stands for, and let it be served; None when it is too small."""
        record, payer = self._payers_of(aside.org, "maker")
        tokens = self.random.randrange(1, 60)
        call = self.economy.call(aside.org, record, payer, tokens, f"gen-{ulid()}")
        call.started_at_us = now_us()
        account = self.economy.wallet_ids[aside.org]
        call.plan = call.draw(tokens, {account: aside.amount})
        if call.plan.shortfall_u:
            return None
        used = tokens * self.random.choice([0, 30, 100, 100, 120]) // 100
        return call, call.settle(Buckets(0, 0, 0, used, 0), "{}", "provider", "ok", now_us())

    def _charge_out_of(self, aside: Aside, call: Call, bill: Bill) -> None:
        smaller = self._smaller(aside, max(0, aside.amount - bill.wallet_u))
        try:
            self.writer.submit(bill.charge(call, (smaller,)))
        except PaymentRequired:
            self._tell(f"refused {call.id}")
            raise
        finally:
            self._keep(Aside(smaller.into, aside.org, smaller.amount))
        self._charged(call, bill)

    def _charged(self, call: Call, bill: Bill) -> None:
        os.write(self.acknowledged, f"{call.id}\n".encode())
        self._tell(f"paid {call.id} {bill.wallet_u}")
        self.settled.append((call.id, bill.cost_u))

    def _again(self, call: Call, bill: Bill) -> None:
        """Nobody is charged twice under one id."""
        try:
            self.writer.submit(bill.charge(call))
        except Conflict:
            return
        raise AssertionError(f"{call.id} was charged again")

    def _shrink(self, aside: Aside, amount: int) -> None:
        smaller = self._smaller(aside, amount)
        done = self.writer.submit(smaller)
        assert isinstance(done, Done)
        word = "kept" if done.changed else "gone"
        self._tell(f"{word} {smaller.tx} {smaller.into} {amount}")
        self._keep(Aside(smaller.into, aside.org, amount))

    def _smaller(self, aside: Aside, amount: int) -> Rehold:
        at_us, org = now_us(), self.economy.org(aside.org)
        name, until_us = f"res_{ulid()}", at_us + HOLD_S * SECOND_US
        return Rehold(aside.tx, name, org, amount, at_us, until_us)

    def _tell(self, line: str) -> None:
        os.write(self.told, f"{line}\n".encode())

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
        """Issue a voucher that ends in a moment, as far as its caps and pools leave room."""
        org = self.economy.org(self.random.choice(ORGS))
        code = self.random.choice(sorted(Economy.RATIOS))
        made, asked = self.economy.programmes[code], self.random.randrange(1, 60)
        ends = now_us() + self.random.choice([300_000, 2_000_000, 10**12])
        with self.database.session() as session:
            take_control(session)
            at_us, sealed, against = now_us(), load(made.rules), Against(org)
            amount = sized(session, made, sealed, asked, {}, against, at_us).amount_u
            if amount:
                caps = caps_for(sealed, {}, against, at_us)
                order = Order(
                    f"iss-{ulid()}", made, org, amount, at_us, expires_at_us=ends, caps=caps
                )
                issue_grants(session, order)

    def top_up(self) -> None:
        """A little money for somebody."""
        org = self.random.choice(ORGS)
        world = self.economy.world
        wallet = self.economy.wallet_ids[org]
        self.writer.submit(world.post(f"top-{ulid()}", world.bank, wallet, 1_000))

    def claim(self) -> None:
        """Claim from one funder what it owes by now. Between the two steps the process may die."""
        made = self.economy.programmes[self.random.choice(sorted(Economy.RATIOS))]
        name = f"clm-{ulid()}"
        with self.database.session() as session:
            part = self.random.choice(list(pools.funders_of(session, made.id)))
            at_us = now_us()
            period = claims.Period("p", at_us - 3 * SECOND_US, at_us)
            claims.draft(session, name, made, part.funder_id, period, "ann", at_us)
        with self.database.session() as session:
            claims.submit(session, name, [], "bob", now_us())

    def decide(self) -> None:
        """Take anybody's claim a step further."""
        with self.database.session() as session:
            query = select(Claim.id, Claim.state).where(
                col(Claim.state).in_(("draft", "submitted", "audited"))
            )
            found = session.exec(query.limit(20)).all()
            # A draft is mostly somebody's who is about to submit it, and seldom a dead process's.
            ready = [each for each in found if each[1] != "draft"]
            chosen = ready or (found if self.random.random() < 0.2 else [])
            if chosen:
                self._decide(session, *self.random.choice(chosen))

    def _decide(self, session: Session, name: str, state: str) -> None:
        if state == "audited":
            claims.settle(session, name, f"bank-{name}", "dan", now_us())
        elif state == "draft" or self.random.random() < 0.1:
            claims.withdraw(session, name, "bob", now_us())
        else:
            refused = [claims.Verdict(1, False, "no")] if self.random.random() < 0.3 else []
            claims.audit(session, name, refused, "cyd", now_us(), rest=True)

    def jobs(self) -> None:
        """Add up and mature what is there."""
        with self.database.session() as session:
            accrue(session, now_us())
            mature(session, now_us())

    def pay(self) -> None:
        """Pay somebody out, in as many transactions as there are steps; some of it comes back."""
        org = self.economy.org(self.random.choice((*OWNERS, "maker", "kin")))
        name = f"pay-{ulid()}"
        with self.database.session() as session:
            service.prepare(session, name, org, "ann", now_us())
        with self.database.session() as session:
            service.approve(session, name, "bob", now_us())
        with self.database.session() as session:
            files.export(session, f"file-{ulid()}", "bob", now_us())
        with self.database.session() as session:
            service.paid(session, name, f"bank-{name}", "bob", now_us())
        if self.random.random() < 0.3:
            with self.database.session() as session:
                service.reverse(session, name, "a race", "eve", now_us())


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
