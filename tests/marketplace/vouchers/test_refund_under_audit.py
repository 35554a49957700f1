"""What is given back of a leg shares its fate, also when it is given back while the leg is audited."""

from __future__ import annotations

import pytest
from support.ledger_checks import claim_problems
from support.voucher_story import Story, rules

from catalog.ground.database import Database
from marketplace.ledger.chart import owner_available, owner_unsettled
from marketplace.payouts.accruals import accrue, mature
from marketplace.vouchers import claims
from marketplace.vouchers.claims import Period, Verdict
from marketplace.vouchers.pools import funder
from marketplace.vouchers.refunds import refund


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "refused"])
def test_a_refund_waits_for_the_verdict_on_its_leg(database: Database, allowed: bool) -> None:
    story = Story(database)
    city = [{"funder": "city", "level": "city", "share_bp": 10_000}]
    made = story.programme(rules(funders=city), fund_u=10_000)
    story.grant(made, "opc", 5_000)

    def draft(name: str) -> int:
        story.days(1)
        with database.session() as session:
            who, at_us = funder(session, "city").id, story.clock()
            row = claims.draft(session, name, made, who, Period(name, 0, at_us), "ann", at_us)
            claims.submit(session, name, [], "bob", at_us)
            return row.total_u

    def decide(name: str, *said: Verdict) -> None:
        with database.session() as session:
            claims.audit(session, name, said, "cyd", story.clock(), rest=True)
            claims.settle(session, name, "bank", "dan", story.clock())

    event = story.call("opc", 1_000)
    assert draft("c1") == 1_000
    with database.session() as session:
        refund(session, "r1", event, 400, "half", "support", story.clock())
    story.call("opc", 2_000)
    assert draft("c2") == 2_000, "nobody knows yet whether there is anything to give back"
    decide("c2")
    decide("c1", *([] if allowed else [Verdict(1, False, "no log")]))
    story.call("opc", 500)
    assert draft("c3") == 100
    decide("c3")
    story.days(9)
    with database.session() as session:
        accrue(session, story.clock())
        mature(session, story.clock())
    owner = story.org("owner")
    earned = 2_500 + (600 if allowed else 0)
    assert story.balance(owner_available(owner)) == earned
    assert story.journal(owner_unsettled(owner)) == 0
    with database.reading() as session:
        assert list(claim_problems(session)) == []
    story.check()
