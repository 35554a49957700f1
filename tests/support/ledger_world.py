"""A small ledger to play with: accounts by name, operations by amounts, one transaction a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from catalog.ground.database import Database
from catalog.ground.errors import TokenMartError
from catalog.ground.ids import ulid
from marketplace.ledger.accounts import account_id, open_account, open_lane
from marketplace.ledger.chart import BANK, CLEARING, CNY, OVERRUN, Code, Rule
from marketplace.ledger.dialect import dialect_of
from marketplace.ledger.journal import BatchRun
from marketplace.ledger.operations import (
    Available,
    Charge,
    Entry,
    Hold,
    Leg,
    Operation,
    Outcome,
    Post,
    Rehold,
    Release,
    Renew,
    Settle,
)
from marketplace.ledger.tables import Account
from marketplace.ledger.verify import verify

T0 = 1_790_000_000_000_000
TTL = 120_000_000
PRICES = '{"input_u_per_m":1000000,"output_u_per_m":1000000}'
"""One micro-yuan a token, so that a cost of n has n tokens."""


def usage(
    event_id: str, cost: int, wallet: int = 0, voucher: int = 0, **more: Any
) -> tuple[Any, ...]:
    """Return a usage event of `cost` micro-yuan; what wallet and vouchers do not pay is overrun."""
    free = more.get("free", 0)
    overrun = more.get("overrun", cost - wallet - voucher - free)
    return (
        event_id, more.get("org", "a"), "key", "prj", "maker/mini", "", "end", "maker", "prc",
        PRICES, T0, T0, T0, cost, 0, 0, 0, 0, "provider", "ok", 0, cost, cost, wallet, voucher, free,
        overrun, "{}", "{}", "0" * 64,
    )  # fmt: skip


class World:
    """A ledger with a bank. Not durable (nothing survives the machine's power), so tests are quick."""

    def __init__(self, database: Database, lane: str = "") -> None:
        self.database = database
        with database.session() as session:
            self.lane = open_lane(session, lane or f"test-{ulid()}")
            self.clearing = account_id(session, CLEARING)
            self.overrun = account_id(session, OVERRUN)
            self.bank = account_id(session, BANK)
        self.maker = self.account("owner:maker:unsettled", rule=Rule.PROJECTION)
        self.connection = database.raw_connection()
        cheap = (
            "PRAGMA synchronous=OFF" if database.kind == "sqlite" else "SET synchronous_commit=off"
        )
        self.connection.execute(cheap)
        self.dialect = dialect_of(self.connection)

    def close(self) -> None:
        self.connection.close()

    def account(
        self,
        code: str,
        fund: int = 0,
        rule: Rule = Rule.DEBITS_WITHIN_CREDITS,
        unit: str = CNY,
    ) -> int:
        """Open an account and, from the bank, fund it."""
        with self.database.session() as session:
            account = open_account(session, code, rule, unit)
        if fund:
            self.do(Post(f"fund:{code}", (Entry(Code.TOPUP, self.bank, account, fund),), T0))
        return account

    def apply(self, *operations: Operation) -> list[Outcome | TokenMartError]:
        """Apply operations in one transaction; a refusal is returned, an error rolls back."""
        self.dialect.begin()
        try:
            run = BatchRun(self.dialect, self.lane, self.clearing)
            outcomes = run.apply(operations)
            self.dialect.commit()
        except BaseException:
            self.dialect.rollback()
            raise
        return outcomes

    def do(self, operation: Operation) -> Outcome:
        """Apply one operation; raises its refusal."""
        (outcome,) = self.apply(operation)
        if isinstance(outcome, TokenMartError):
            raise outcome
        return outcome

    def hold(self, tx: str, *legs: tuple[int, int], sink: int | None = None, **more: Any) -> Hold:
        """Return a hold of these (account, amount) legs, whatever is available."""
        promised = tuple(Leg(a, n, self.clearing if sink is None else sink) for a, n in legs)

        def decide(_available: Available) -> tuple[tuple[Leg, ...], str]:
            return promised, more.get("plan", "{}")

        at_us = more.get("at_us", T0)
        expires_at_us = more.get("expires_at_us", at_us + TTL)
        return Hold(tx, "org", tuple(a for a, _ in legs), decide, at_us, expires_at_us)

    def settle(
        self, tx: str, posted: Sequence[int], cost: int | None = None, **more: Any
    ) -> Settle:
        """Return a settlement: what the legs do not pay of `cost` is overrun; the maker gets it all."""
        total = sum(posted) if cost is None else cost
        entries = [Entry(Code.ACCRUE, self.clearing, self.maker, total)]
        if total > sum(posted):
            entries.append(Entry(Code.OVERRUN, self.overrun, self.clearing, total - sum(posted)))
        row = more.get("row") or usage(tx, total, **{"voucher": sum(posted), **more})
        at_us = more.get("at_us", T0)
        return Settle(tx, tuple(posted), tuple(e for e in entries if e.amount), row, at_us)

    def charge(
        self, tx: str, *legs: tuple[int, ...], cost: int | None = None, **more: Any
    ) -> Charge:
        """Return a charge of these (account, amount) or (account, amount, sink) legs, beside all holds.

        What the legs do not bring through clearing of `cost` is overrun; the maker gets it all.
        """
        paid = tuple(Leg(*leg) if len(leg) == 3 else Leg(*leg, self.clearing) for leg in legs)
        through = sum(leg.amount for leg in paid if leg.sink_id == self.clearing)
        settled = self.settle(tx, [through], cost, **more)
        reholds = more.get("reholds", ())
        return Charge(tx, paid, settled.entries, settled.usage, settled.at_us, reholds)

    def rehold(self, tx: str, into: str, amount: int, at_us: int = T0) -> Rehold:
        return Rehold(tx, into, "org", amount, at_us, at_us + TTL)

    def release(self, tx: str, *, expired: bool = False, at_us: int = T0) -> Release:
        return Release(tx, at_us, expired=expired)

    def renew(self, tx: str, expires_at_us: int) -> Renew:
        return Renew(tx, expires_at_us)

    def post(self, tx: str, debit: int, credit: int, amount: int, code: Code = Code.TOPUP) -> Post:
        return Post(tx, (Entry(code, debit, credit, amount),), T0)

    def totals(self, account: int) -> tuple[int, int, int]:
        """Return (promised, spent, received)."""
        with self.database.reading() as session:
            row = session.get_one(Account, account)
            return row.dr_pending, row.dr_posted, row.cr_posted

    def left(self, account: int) -> int:
        promised, spent, received = self.totals(account)
        return received - spent - promised

    def problems(self, **more: Any) -> list[str]:
        return verify(self.database, **more).problems
