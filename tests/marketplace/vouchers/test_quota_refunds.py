"""Quotas in tokens and requests come back as units, to the grant that they came from, and never as money."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import select
from support.voucher_story import Story, rules

from catalog.ground.database import Database
from catalog.ground.errors import Conflict
from marketplace.ledger.chart import FREE_COST, owner_unsettled, quota_used, wallet
from marketplace.ledger.chart import grant as grant_code
from marketplace.vouchers.refunds import legs_returned, refund
from marketplace.vouchers.returning import lapse
from marketplace.vouchers.tables import Grant, RefundLeg

OWNED = 1_000_000


@pytest.fixture
def story(database: Database) -> Story:
    return Story(database)


def quota(story: Story, unit: str, amount: int) -> None:
    """Publish a daily quota that everybody has."""
    changes: dict[str, Any] = {
        "kind": "free_quota",
        "claimant": "platform",
        "funders": [{"funder": "platform", "level": "platform", "share_bp": 10_000}],
        "quota": {"unit": unit, "amount": amount, "recurrence": "day"},
        "stacking": {"stack_class": "free", "rule": "stack"},
        "window": {},
    }
    story.programme(rules("tst-quota", **changes))


def back(story: Story, name: str, event: str, amount_u: int) -> list[RefundLeg]:
    with story.database.session() as session:
        row = refund(session, name, event, amount_u, "wrong answer", "support", story.clock())
        again = refund(session, name, event, amount_u, "wrong answer", "support", story.clock())
        assert row.id == again.id
        return list(legs_returned(session, [row.id]))


def given(story: Story) -> Grant:
    with story.database.reading() as session:
        grant = session.exec(select(Grant).where(Grant.unit != "CNY")).one()
        session.expunge(grant)
        return grant


def test_tokens_come_back_in_proportion_and_whole_in_the_end(story: Story) -> None:
    quota(story, "TOK:default", 10_000)
    story.org("opc", wallet_u=OWNED)
    event = story.call("opc", 999)
    grant = given(story)
    owner, purse = owner_unsettled(story.org("owner")), wallet(story.org("opc"))
    assert story.balance(grant_code(grant.id)) == 9_001
    earned = story.journal(owner)
    assert [leg.amount_u for leg in back(story, "r1", event, 333)] == [333]
    assert [leg.amount_u for leg in back(story, "r2", event, 1)] == [1]
    story.check()
    with pytest.raises(Conflict, match="665 micro-yuan"):
        back(story, "r3", event, 666)
    back(story, "r4", event, 665)
    assert story.balance(grant_code(grant.id)) == 10_000
    # The platform gets back what it had paid the owner; the caller sees no money at all.
    assert story.journal(FREE_COST) == 0
    assert (story.journal(owner), story.balance(purse)) == (earned - 999, OWNED)
    assert story.journal(quota_used("TOK:default")) == -10_000
    story.check()


def test_a_request_comes_back_with_the_last_of_it(story: Story) -> None:
    quota(story, "REQ:default", 5)
    event = story.call("opc", 500)
    grant = given(story)
    assert [leg.amount_u for leg in back(story, "r1", event, 499)] == [0]
    assert story.balance(grant_code(grant.id)) == 4
    assert [leg.amount_u for leg in back(story, "r2", event, 1)] == [1]
    assert story.balance(grant_code(grant.id)) == 5
    story.check()


def test_what_a_day_is_over_for_lapses_at_once(story: Story) -> None:
    quota(story, "TOK:default", 1_000)
    event = story.call("opc", 400)
    grant = given(story)
    story.days(1)
    with story.database.session() as session:
        assert lapse(session, story.clock()) == 1
    back(story, "r1", event, 400)
    assert story.balance(grant_code(grant.id)) == 0
    assert (given(story).refunded, given(story).returned) == (400, 1_000)
    story.check()


def test_a_call_that_cost_nothing_used_no_quota(story: Story) -> None:
    quota(story, "REQ:default", 5)
    call = story.held("opc", 500)
    story.settle(call, 0)
    assert story.balance(grant_code(given(story).id)) == 5
    with pytest.raises(Conflict, match="0 micro-yuan"):
        back(story, "r1", call.id, 1)
    story.check()


def test_money_that_a_quota_stood_beside_comes_back_first(story: Story) -> None:
    """A quota that was used up leaves the call to the wallet: nothing of it is the quota's."""
    quota(story, "TOK:default", 300)
    story.org("opc", wallet_u=OWNED)
    story.call("opc", 200)
    event = story.call("opc", 200)  # a hundred tokens are too few for it
    grant = given(story)
    (leg,) = back(story, "r1", event, 200)
    assert (leg.grant_id, leg.amount_u) == ("", 200)
    assert story.balance(grant_code(grant.id)) == 100
    story.check()
