"""Rules of the random walk for owners' shares: added up, matured, reviewed, paid out, told in statements."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from sqlmodel import Session
from support.economy import ORGS, OWNERS, Economy

from catalog.ground.clock import HOUR_US, zone
from catalog.ground.database import Database
from catalog.ground.errors import Conflict, Forbidden
from catalog.ground.ids import ulid
from marketplace.ledger.chart import owner_unsettled, wallet
from marketplace.payouts import files, holds, service
from marketplace.payouts.accruals import accrue, mature
from marketplace.payouts.statements import KINDS, statement
from marketplace.vouchers import adjustments
from marketplace.vouchers.periods import month

NEXT = {"prepared": "approved", "approved": "exported", "exported": "paid"}


@dataclass
class PayoutModel:
    """A payout as the model keeps it."""

    id: str
    org: str
    amount: int
    state: str = "prepared"
    paid_at: int = 0


class PayoutRules(RuleBasedStateMachine):
    """Money on its way to whoever earned it."""

    database: Database
    e: Economy
    payouts: list[PayoutModel]
    archived_until: int
    told: dict[tuple[str, str], str]
    """The sha256 of every statement that was made, by organisation and month."""

    @rule()
    def jobs(self) -> None:
        self.run_jobs()

    def run_jobs(self) -> None:
        """Add up and mature, as the house does every hour; a second run finds nothing to do."""
        e, found = self.e, dict[str, int]()
        e.now += 1
        with self.database.session() as session:
            accrue(session, e.now)
            assert accrue(session, e.now) == 0
            found = mature(session, e.now)
            assert mature(session, e.now) == {}
        e.shares.accrue(e.calls, e.now)
        # Whoever earned nothing may be told so or not.
        expected = {e.org(org): net for org, net in e.shares.mature(e.now).items() if net}
        assert {org: net for org, net in found.items() if net} == expected

    @rule(org=st.sampled_from(OWNERS))
    def review(self, org: str) -> None:
        """A review begins or, by another person, ends."""
        e = self.e
        name = e.shares.under_review.pop(org, "")
        if name:
            with pytest.raises(Forbidden), self.database.session() as session:
                holds.release(session, name, "ann", e.now)
            self.do(lambda s: holds.release(s, name, "bob", e.now))
            return
        made = e.shares.under_review[org] = f"hold-{ulid()}"
        self.do(lambda s: holds.hold(s, made, e.org(org), "a test", "ann", e.now))

    @rule(org=st.sampled_from(OWNERS), less=st.sampled_from([0, 0, 1, 5]), steps=st.integers(0, 3))
    def pay_out(self, org: str, less: int, steps: int) -> None:
        """What is available is set aside, or a part of it; never more."""
        e = self.e
        e.now += 1
        have, now = e.shares.available(org), e.now
        with pytest.raises(Conflict), self.database.session() as session:
            service.prepare(session, f"pay-{ulid()}", e.org(org), "ann", now, amount_u=have + 1)
        amount = have - less
        if amount <= 0:
            return
        made = PayoutModel(f"pay-{ulid()}", org, amount)
        self.do(lambda s: service.prepare(s, made.id, e.org(org), "ann", now, amount_u=amount))
        e.shares.move(org, "payout", -amount, now)
        e.shares.paying[org] += amount
        self.payouts.append(made)
        for _ in range(steps):
            self.advance(made)

    @precondition(lambda self: any(p.state in NEXT for p in self.payouts))
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        self.advance(data.draw(st.sampled_from([p for p in self.payouts if p.state in NEXT])))

    @precondition(lambda self: any(p.state != "reversed" for p in self.payouts))
    @rule(data=st.data())
    def reverse(self, data: st.DataObject) -> None:
        """A payout is called off, or comes back from the bank: the money is available again."""
        e = self.e
        made = data.draw(st.sampled_from([p for p in self.payouts if p.state != "reversed"]))
        e.now += 1
        now = e.now
        self.do(lambda s: service.reverse(s, made.id, "a test", "eve", now))
        if made.state != "paid":
            e.shares.paying[made.org] -= made.amount
        made.state = "reversed"
        e.shares.move(made.org, "reversed", made.amount, now)

    def advance(self, made: PayoutModel) -> None:
        """Take a payout to its next state; whoever prepared it does none of that."""
        e = self.e
        e.now += 1
        now = e.now
        if made.state == "prepared":
            with pytest.raises(Forbidden), self.database.session() as session:
                service.approve(session, made.id, "ann", now)
            if made.org in e.shares.under_review:
                with pytest.raises(Conflict), self.database.session() as session:
                    service.approve(session, made.id, "bob", now)
                return
            self.do(lambda s: service.approve(s, made.id, "bob", now))
            made.state = "approved"
        elif made.state == "approved":
            self._export(f"file-{ulid()}")
        elif made.state == "exported":
            self.do(lambda s: service.paid(s, made.id, f"bank-{made.id}", "bob", now))
            made.state, made.paid_at = "paid", now
            e.shares.paying[made.org] -= made.amount
            e.shares.move(made.org, "paid", made.amount, now)

    def _export(self, file_id: str) -> None:
        """One file asks for every approved payout, once, and adds up."""
        ready = {p.id: p.amount for p in self.payouts if p.state == "approved"}
        now = self.e.now
        self.do(lambda s: files.export(s, file_id, "bob", now))
        with self.database.reading() as session:
            told = files.as_json(session, file_id)
            rows = list(csv.reader(io.StringIO(files.as_csv(session, file_id).decode("utf-8-sig"))))
        assert {row["payout"]: row["amount_u"] for row in told["payouts"]} == ready
        assert told["total_u"] == sum(ready.values()) == int(rows[-1][5])
        assert [int(row[5]) for row in rows[1:-1]] == [ready[row[0]] for row in rows[1:-1]]
        for made in self.payouts:
            if made.state == "approved":
                made.state = "exported"

    @rule(
        org=st.sampled_from(ORGS),
        amount=st.integers(1, 5),
        to_owner=st.booleans(),
        hours=st.sampled_from([0, 20]),
    )
    def adjust(self, org: str, amount: int, to_owner: bool, hours: int) -> None:
        """Two persons correct something between a wallet and an owner's share, maybe a day later."""
        e = self.e
        if to_owner and amount > e.wallet_left(org):
            return
        source, target = owner_unsettled(e.org("maker")), wallet(e.org(org))
        if to_owner:
            source, target = target, source
        name, proposed = f"adj-{ulid()}", e.now
        self.do(
            lambda s: adjustments.propose(
                s, name, source, target, amount, "a test", "ann", proposed
            )
        )
        e.now += hours * HOUR_US + 1
        booked = e.now
        with pytest.raises(Forbidden), self.database.session() as session:
            adjustments.book(session, name, "ann", booked)
        self.do(lambda s: adjustments.book(s, name, "bob", booked))
        sign = 1 if to_owner else -1
        e.wallets[org] -= sign * amount
        e.shares.happens("maker", "adjustment", sign * amount, booked)

    # --- statements -----------------------------------------------------------------------------------

    @rule(org=st.sampled_from(OWNERS), back=st.integers(0, 1))
    def tell(self, org: str, back: int) -> None:
        """Ask for the statement of this month (too early) or of the last one."""
        self.ask_statement(org, self.months()[-1 - back])

    def months(self) -> list[str]:
        """Return the months from before the walk until now, such as `2026-05`."""
        first = datetime.fromtimestamp(self.e.began // 1_000_000, zone) - _MONTH
        last = datetime.fromtimestamp(self.e.now // 1_000_000, zone)
        count = (last.year - first.year) * 12 + last.month - first.month + 1
        numbers = [first.year * 12 + first.month - 1 + n for n in range(count)]
        return [f"{n // 12}-{n % 12 + 1:02d}" for n in numbers]

    def ask_statement(self, org: str, period: str) -> None:
        """Ask for a statement: refused until its month is added up, then the ledger's sums, for ever."""
        e = self.e
        _, start, end = month(period)
        e.now += 1
        now = e.now
        if now < end + HOUR_US:
            with pytest.raises(Conflict), self.database.session() as session:
                statement(session, e.org(org), period, now)
            return
        with self.database.session() as session:
            made = statement(session, e.org(org), period, now)
        known = self.told.setdefault((org, period), made.sha256)
        assert known == made.sha256
        self._check_statement(org, json.loads(made.body), start, end)

    def _check_statement(self, org: str, told: dict[str, Any], start: int, end: int) -> None:
        shares = self.e.shares
        shares.accrue(self.e.calls, self.e.now)
        sums = shares.sums(org, start, end)
        available = told["available"]
        movements = {
            f"{what}_u": sums[what]
            for what in ("opening", "matured", "reimbursed", "reversed")
        }  # fmt: skip
        movements["payouts_u"] = sums["payout"]
        closing = sum(movements.values())
        assert available == {**movements, "closing_u": closing}
        # When a payout that came back had left is in the journal alone; archive what has been told.
        lost = sum(
            made.amount
            for made in self.payouts
            if (made.org, made.state) == (org, "reversed")
            and start <= made.paid_at < min(end, self.archived_until)
        )
        assert told["paid_u"] in (sums["paid"], sums["paid"] - lost)
        for kind in KINDS:
            earned = told["earned"][kind]
            found = (earned["net_u"], earned["waiting_for_funders_u"])
            if kind == "reimbursed":
                paid = sum(
                    flow.amount
                    for flow in shares.flows
                    if (flow.org, flow.what) == (org, kind) and start <= flow.at < end
                )
                owed, _ = shares.earned(org, kind, start, end)
                assert found == (paid + owed, 0)
            else:
                assert found == shares.earned(org, kind, start, end), kind

    def do(self, act: Callable[[Session], object]) -> None:
        """Do it, and keep it to be done again."""
        with self.database.session() as session:
            act(session)

        def again() -> None:
            with self.database.session() as session:
                act(session)

        self.e.repeatable.append(("payout", again))

    def pay_everything(self) -> None:
        """Bring every payout to the bank, and pay out what is left."""
        for org in list(self.e.shares.under_review):
            PayoutRules.review(self, org)
        for org in OWNERS:
            PayoutRules.pay_out(self, org, 0, 0)
        for made in self.payouts:
            while made.state in NEXT:
                self.advance(made)
        for org in OWNERS:
            assert self.e.shares.paying[org] == 0
        with self.database.reading() as session:
            rows = service.payouts(session)
        assert {row.id: row.state for row in rows} == {p.id: p.state for p in self.payouts}


_MONTH = datetime(2026, 2, 1) - datetime(2026, 1, 1)
