"""A random walk through everything that may happen to vouchers; every invariant holds all the way."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from sqlmodel import select
from support.voucher_story import Story, rules

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import TokenMartError
from catalog.ground.ids import new_id
from marketplace.ledger.chart import owner_available
from marketplace.payouts.accruals import accrue, mature
from marketplace.vouchers import claims
from marketplace.vouchers.claims import Period, Verdict
from marketplace.vouchers.pools import funders_of
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.returning import lapse, void
from marketplace.vouchers.tables import Claim

STEPS = 45


class Walk:
    """One story with dice. Small balances and small pools, so that every edge is met often."""

    def __init__(self, database: Database, seed: int) -> None:
        self.story = Story(database)
        self.dice = random.Random(seed)
        self.events: list[str] = []
        self.grants: list[str] = []
        self.programmes = [
            self.story.programme(
                rules("tst-a", on_funder_exhausted="rescale", clawback={"months": 36}), fund_u=700
            ),
            self.story.programme(
                rules("tst-b", subsidy={"ratio_bp": 3333}, on_funder_exhausted="platform_covers"),
                fund_u=300,
            ),
            self.story.programme(
                rules(
                    "tst-c",
                    mode="reimburse",
                    claimant="demander",
                    subsidy={"ratio_bp": 3000},
                    stacking={"stack_class": "later", "rule": "stack"},
                ),
                fund_u=5_000,
            ),
        ]
        for org in ("opc1", "opc2"):
            self.story.org(org, wallet_u=20_000)

    def step(self) -> None:
        often = [self.grant, self.call, self.call, self.call, self.refund, self.refund]
        seldom = [self.days, self.claim, self.audit, self.settle, self.claw, self.end, self.jobs]
        act = self.dice.choice([*often, *seldom])
        with suppress(TokenMartError):
            act()

    def org(self) -> str:
        return self.dice.choice(["opc1", "opc2"])

    def grant(self) -> None:
        made = self.dice.choice(self.programmes)
        self.grants.append(self.story.grant(made, self.org(), self.dice.randint(1, 400)).id)

    def call(self) -> None:
        self.events.append(self.story.call(self.org(), self.dice.randint(1, 150)))

    def refund(self) -> None:
        event, amount_u = self.dice.choice(self.events or ["none"]), self.dice.randint(1, 60)
        with self.story.database.session() as session:
            refund(session, new_id("r"), event, amount_u, "dice", "x", self.story.clock())

    def days(self) -> None:
        self.story.days(self.dice.randint(1, 12))

    def claim(self) -> None:
        made = self.dice.choice(self.programmes)
        now = self.story.clock()
        span = Period(f"to {now}", now - 10 * DAY_US, now)
        with self.story.database.session() as session:
            who = self.dice.choice(funders_of(session, made.id)).funder_id
            row = claims.draft(session, new_id("clm"), made, who, span, "clerk", now)
            if self.dice.random() < 0.2:
                claims.withdraw(session, row.id, "clerk", now)
            else:
                claims.submit(session, row.id, [], "clerk", now)

    def _claim(self, state: str) -> str:
        with self.story.database.reading() as session:
            found = session.exec(select(Claim.id).where(Claim.state == state)).all()
        return self.dice.choice(sorted(found) or ["none"])

    def audit(self) -> None:
        name = self._claim("submitted")
        with self.story.database.session() as session:
            rows = claims.lines(session, name)
            said = [
                Verdict(row.n, False, "dice")
                for row in rows
                if not row.refund_id and self.dice.random() < 0.15
            ]
            claims.audit(session, name, said, "auditor", self.story.clock(), rest=True)

    def settle(self) -> None:
        name = self._claim("audited")
        with self.story.database.session() as session:
            claims.settle(session, name, "bank", "treasurer", self.story.clock())

    def claw(self) -> None:
        name = self._claim("settled")
        with self.story.database.session() as session:
            claims.clawback(
                session, name, [self.dice.randint(1, 5)], "dice", "officer", self.story.clock()
            )

    def end(self) -> None:
        with self.story.database.session() as session:
            lapse(session, self.story.clock())
            if self.grants and self.dice.random() < 0.3:
                void(session, self.dice.choice(self.grants), "dice", self.story.clock())

    def jobs(self) -> None:
        with self.story.database.session() as session:
            accrue(session, self.story.clock())
            mature(session, self.story.clock())


@pytest.mark.parametrize("seed", range(2))
def test_every_invariant_holds_all_the_way(database: Database, seed: int) -> None:
    walk = Walk(database, seed)
    for number in range(STEPS):
        walk.step()
        if number % 15 == 14:
            walk.story.check()
    walk.jobs()
    walk.story.check()
    owner = walk.story.org("owner")
    assert walk.story.journal(owner_available(owner)) >= 0
