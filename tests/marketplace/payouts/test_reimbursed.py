"""What is paid back later, to callers and to providers: all of it is told, and what is owed is set off."""

from __future__ import annotations

import json

import pytest
from sqlmodel import select
from support.voucher_story import Story, rules

from catalog.ground.database import Database
from marketplace.ledger.chart import owner_available, owner_unsettled
from marketplace.payouts.accruals import accrue, mature
from marketplace.payouts.statements import statement
from marketplace.payouts.tables import Accrual
from marketplace.vouchers import claims
from marketplace.vouchers.claims import Period
from marketplace.vouchers.pools import funder
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.tables import Programme


@pytest.fixture
def story(database: Database) -> Story:
    story = Story(database)
    for org in ("one", "two"):
        story.org(org, wallet_u=10_000)
    return story


def programme(story: Story, claimant: str) -> Programme:
    funders = [("province", 5000), ("city", 5000)]
    document = rules(
        mode="reimburse",
        claimant=claimant,
        funders=[{"funder": f, "level": f, "share_bp": bp} for f, bp in funders],
    )
    return story.programme(document, fund_u=100_000)


def claim(story: Story, made: Programme, name: str, code: str) -> None:
    story.days(1)
    with story.database.session() as session:
        who, at_us = funder(session, code).id, story.clock()
        claims.draft(session, name, made, who, Period(name, 0, at_us), "ann", at_us)
        claims.submit(session, name, [], "bob", at_us)
        claims.audit(session, name, [], "cyd", at_us, rest=True)
        claims.settle(session, name, "bank", "dan", at_us)
        accrue(session, at_us)
        mature(session, at_us)


def test_a_provider_is_told_what_every_caller_brought(story: Story) -> None:
    made = programme(story, "provider")
    for org, cost_u in (("one", 1_000), ("two", 400)):
        story.grant(made, org, 5_000)
        story.call(org, cost_u)
    claim(story, made, "c1", "city")
    owner = story.org("owner")
    assert story.balance(owner_available(owner)) == 700
    story.days(32)
    with story.database.session() as session:
        told = json.loads(statement(session, owner, "2026-01", story.clock()).body)
    assert told["available"]["reimbursed_u"] == 700
    assert told["earned"]["reimbursed"]["net_u"] == 700
    story.check()


def test_what_refunds_leave_owed_is_set_off(story: Story) -> None:
    """A refund takes the newest letter, the city's, which has been paid; the province pays the oldest."""
    made = programme(story, "demander")
    for org in ("one", "two"):
        story.grant(made, org, 5_000)
    first = story.call("one", 1)
    story.call("one", 1)
    one = story.org("one")
    claim(story, made, "c1", "city")
    assert story.balance(owner_available(one)) == 1
    with story.database.session() as session:
        refund(session, "r1", first, 1, "broken", "support", story.clock())
    story.call("two", 10)
    claim(story, made, "c2", "city")
    claim(story, made, "c3", "province")
    owed = story.journal(owner_unsettled(one))
    with story.database.reading() as session:
        rows = session.exec(select(Accrual).where(Accrual.org_id == one)).all()
    assert sum(row.net_u for row in rows if not row.matured_tx) == owed
    assert story.balance(owner_available(one)) + owed == 1
    story.check()
