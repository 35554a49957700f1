"""What reports say once months have left the journal: the truth, or that they cannot know it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.voucher_story import Story, rules

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import Conflict
from catalog.ground.ids import new_id
from marketplace.ledger.archive import archive
from marketplace.ledger.chart import owner_unsettled, wallet
from marketplace.members.organisations import organisation
from marketplace.reports.anomalies import anomalies
from marketplace.reports.burn import burn
from marketplace.reports.claim_pack import claim_pack
from marketplace.reports.focus import focus
from marketplace.reports.owner import owner_statement
from marketplace.reports.sources import month
from marketplace.reports.statement import statement
from marketplace.vouchers import claims
from marketplace.vouchers.periods import period
from marketplace.vouchers.pools import funder


def test_reports_after_an_archive(database: Database, tmp_path: Path) -> None:
    story = Story(database)
    story.org("opc", wallet_u=10_000)
    made = story.programme(
        rules(subsidy={"ratio_bp": 5_000}, window={"grant_ttl_days": 90}), fund_u=10_000
    )
    story.grant(made, "opc", 5_000)
    story.call("opc", 1_000)
    story.clock.advance(month("2026-02").from_us + DAY_US - story.clock())
    names = {}
    with database.session() as session:
        for code in ("province", "city", "district"):
            who, at_us = funder(session, code).id, story.clock()
            names[code] = new_id("clm")
            claims.draft(session, names[code], made, who, period("2026-01"), "ann", at_us)
            claims.submit(session, names[code], [], "bob", at_us)
            claims.audit(session, names[code], [], "cyd", at_us, rest=True)
            claims.settle(session, names[code], "bank", "dan", at_us)
    story.call("opc", 200)

    def balances() -> tuple[int, int]:
        opc, owner = story.org("opc"), story.org("owner")
        return story.journal(wallet(opc)), story.journal(owner_unsettled(owner))

    before = balances()
    assert before == (9_400, 1_200)
    cut_us = month("2026-02").from_us
    assert archive(database, cut_us, tmp_path, clock=story.clock) is not None
    assert balances() == before
    with database.reading() as session:
        opc, owner, at_us = (
            organisation(session, "opc"),
            organisation(session, "owner"),
            story.clock(),
        )
        told = statement(session, opc, "2026-02", at_us).cover
        assert (told["opening_u"], told["closing_u"], told["sums_agree"]) == (9_500, 9_400, True)
        assert owner_statement(session, owner, "2026-02", at_us).cover["unsettled_now_u"] == 1_200
        burnt = burn(session, at_us)
        assert burnt.cover["all_agree"] is True
        used = {row["funder"]: (row["used_u"], row["unclaimed_u"]) for row in burnt.sheets[0].rows}
        assert used == {"province": (300, 50), "city": (180, 30), "district": (120, 20)}
        january = month("2026-01")
        for ask in (
            lambda: statement(session, opc, "2026-01", at_us),
            lambda: owner_statement(session, owner, "2026-01", at_us),
            lambda: focus(session, opc, january, at_us),
            lambda: anomalies(session, january, at_us),
            lambda: claim_pack(session, names["city"], at_us),
        ):
            with pytest.raises(Conflict) as caught:
                ask()
            assert caught.value.rule == "report.archived"
