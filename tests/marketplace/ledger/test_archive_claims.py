"""Claims go on when earlier months have been archived with everything that was claimed in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlmodel import select
from support.voucher_story import Story, rules

from catalog.ground.database import Database
from catalog.ground.errors import NotFound
from marketplace.ledger.archive import archive
from marketplace.vouchers import claims
from marketplace.vouchers.claims import Period
from marketplace.vouchers.pools import funder
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.tables import Claim, ClaimLine, Programme


def claim(story: Story, made: Programme, name: str) -> Claim:
    story.days(1)
    with story.database.session() as session:
        who, at_us = funder(session, "city").id, story.clock()
        row = claims.draft(session, name, made, who, Period(name, 0, at_us), "ann", at_us)
        claims.submit(session, name, [], "bob", at_us)
        claims.audit(session, name, [], "cyd", at_us, rest=True)
        claims.settle(session, name, "bank", "dan", at_us)
    return row


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "not claimed yet"])
def test_a_refund_outlives_the_call_that_it_gave_back(
    database: Database, tmp_path: Path, claimed: bool
) -> None:
    story = Story(database)
    made = story.programme(
        rules(funders=[{"funder": "city", "level": "city", "share_bp": 10_000}]), fund_u=10_000
    )
    story.grant(made, "opc", 5_000)
    event = story.call("opc", 1_000)
    if not claimed:
        assert claim(story, made, "c0").total_u == 1_000
    story.days(1)
    with database.session() as session:
        refund(session, "r1", event, 300, "half", "support", story.clock())
    if claimed:
        assert claim(story, made, "c1").total_u == 700
    story.days(1)
    assert archive(database, story.clock(), tmp_path, clock=story.clock) is not None
    with pytest.raises(NotFound), database.session() as session:
        refund(session, "r2", event, 1, "late", "support", story.clock())
    story.call("opc", 500)
    assert claim(story, made, "c2").total_u == (500 if claimed else 200)
    with database.reading() as session:
        lines = session.exec(select(ClaimLine).where(ClaimLine.event_id == event)).all()
    assert sorted((line.amount_u, line.owner_u) for line in lines) == [(-300, -300), (1_000, 1_000)]
