"""A month is told once, so nothing of it may be missing, and nothing may be in two months or in none."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.voucher_story import Story

from catalog.ground.clock import DAY_US, HOUR_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict
from marketplace.ledger.chart import owner_unsettled, wallet
from marketplace.payouts import files, service
from marketplace.payouts.accruals import accrue, mature
from marketplace.payouts.statements import statement
from marketplace.vouchers import adjustments
from marketplace.vouchers.periods import month, period
from marketplace.vouchers.refunds import refund


@pytest.fixture
def story(database: Database) -> Story:
    story = Story(database)
    story.org("opc", wallet_u=100_000)
    return story


def told(story: Story, period: str) -> dict[str, Any]:
    with story.database.session() as session:
        body = statement(session, story.org("owner"), period, story.clock()).body
    found: dict[str, Any] = json.loads(body)
    return found


def test_a_month_has_its_last_day_and_what_no_job_has_added_up_yet(story: Story) -> None:
    end_us = month("2026-01").until_us
    story.clock.advance(end_us - HOUR_US - story.clock())
    event = story.call("opc", 1_000)
    story.clock.advance(30 * 60 * 1_000_000)
    with story.database.session() as session:
        refund(session, "r1", event, 400, "late", "support", story.clock())
    story.clock.advance(HOUR_US)
    with pytest.raises(Conflict, match="added up"):
        told(story, "2026-01")
    story.clock.advance(HOUR_US)
    earned = told(story, "2026-01")["earned"]
    assert (earned["usage"]["net_u"], earned["refund"]["net_u"]) == (1_000, -400)
    with story.database.session() as session:
        assert accrue(session, story.clock()) == 0


def test_an_adjustment_belongs_to_the_month_in_which_it_was_booked(story: Story) -> None:
    story.call("opc", 1_000)
    accounts = (wallet(story.org("opc")), owner_unsettled(story.org("owner")))
    story.clock.advance(month("2026-01").until_us - DAY_US - story.clock())
    with story.database.session() as session:
        adjustments.propose(session, "a1", *accounts, 70, "goodwill", "ann", story.clock())
    story.days(2)
    assert told(story, "2026-01")["earned"]["adjustment"]["net_u"] == 0
    with story.database.session() as session:
        adjustments.book(session, "a1", "bob", story.clock())
    story.days(31)
    assert told(story, "2026-02")["earned"]["adjustment"]["net_u"] == 70


def test_what_left_for_the_bank_is_told_even_if_it_came_back_later(story: Story) -> None:
    story.call("opc", 1_000)
    owner = story.org("owner")
    story.days(9)
    with story.database.session() as session:
        accrue(session, story.clock())
        mature(session, story.clock())
        service.prepare(session, "p1", owner, "ann", story.clock())
        service.approve(session, "p1", "bob", story.clock())
        files.export(session, "f1", "bob", story.clock())
        service.paid(session, "p1", "bank-1", "bob", story.clock())
    story.days(31)
    with story.database.session() as session:
        service.reverse(session, "p1", "account closed", "ann", story.clock())
    first = told(story, "2026-01")
    assert (first["paid_u"], first["available"]["payouts_u"]) == (1_000, -1_000)
    story.days(31)
    second = told(story, "2026-02")
    assert (second["paid_u"], second["available"]["reversed_u"]) == (0, 1_000)


@pytest.mark.parametrize("name", ["2026-1", "２０２６-01", "9999-12", "0001-01", "2026-13", "2026"])
def test_a_month_has_one_name(story: Story, name: str) -> None:
    """By another name it would be told a second time, and differently."""
    with pytest.raises(BadRequest, match="is not a month"):
        told(story, name)
    with pytest.raises(BadRequest, match="is not a month"):
        month(name)
    if name != "2026":
        with pytest.raises(BadRequest, match="is not a period"):
            period(name)


def test_two_who_ask_first_at_once_get_one_statement(story: Story) -> None:
    story.call("opc", 1_000)
    story.clock.advance(40 * DAY_US)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: told(story, "2026-01"), range(4)))
    assert all(answer == answers[0] for answer in answers)
