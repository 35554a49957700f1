"""Revenue share, told from outside: fee, what waits for funders, maturity, reviews, payment files."""

from __future__ import annotations

import csv
import io
import json

import pytest
from sqlmodel import select
from support.voucher_story import NOON_US, Story, rules

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import Conflict, Forbidden, TokenMartError
from marketplace.ledger.chart import FEE, owner_available, owner_paying, owner_unsettled, wallet
from marketplace.payouts import files, service
from marketplace.payouts.accruals import accrue, mature
from marketplace.payouts.fees import listing_scope, publish_fee
from marketplace.payouts.holds import hold, release
from marketplace.payouts.statements import statement
from marketplace.payouts.tables import Accrual
from marketplace.vouchers import adjustments, claims
from marketplace.vouchers.claims import Period, Verdict
from marketplace.vouchers.pools import funder
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.tables import Programme

JANUARY = Period("2026-01", NOON_US - DAY_US, NOON_US + 31 * DAY_US)


@pytest.fixture
def story(database: Database) -> Story:
    story = Story(database)
    with database.session() as session:
        publish_fee(session, "", 1_000, NOON_US, "officer", "ten per cent", NOON_US)
    return story


def run_jobs(story: Story) -> dict[str, int]:
    with story.database.session() as session:
        accrue(session, story.clock())
        return mature(session, story.clock())


def settle_all(
    story: Story, made: Programme, refuse: int | None = None, period: Period = JANUARY
) -> None:
    for code in ("province", "city", "district"):
        with story.database.session() as session:
            who = funder(session, code).id
            name = f"clm_{code}_{period.name}"
            claims.draft(session, name, made, who, period, "clerk", story.clock())
            claims.submit(session, name, [], "clerk", story.clock())
            said = [] if refuse is None else [Verdict(refuse, False, "no log")]
            claims.audit(session, name, said, "auditor", story.clock(), rest=True)
            claims.settle(session, name, "bank-1", "treasurer", story.clock())


def test_own_money_matures_after_a_week_and_voucher_money_when_the_funders_have_paid(
    story: Story,
) -> None:
    made = story.programme(rules(subsidy={"ratio_bp": 6000}), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    story.org("opc", wallet_u=10_000)
    for cost_u in (1_001, 777, 13):  # fee ⌊10 %⌋ each: 100 + 77 + 1
        story.call("opc", cost_u)
    owner = story.org("owner")
    assert story.journal(FEE) == 178
    story.days(2)
    assert run_jobs(story) == {}
    story.days(7)
    first = run_jobs(story)[owner]
    # The wallet's 40 %, rounded up, is 716: minus its part of the fee.
    assert 640 <= first <= 716
    assert story.balance(owner_available(owner)) == first
    assert run_jobs(story) == {}
    story.days(23)
    settle_all(story, made)
    run_jobs(story)
    assert story.balance(owner_available(owner)) == 1_791 - 178
    assert story.journal(owner_unsettled(owner)) == 0
    story.check()


def test_the_narrowest_fee_applies_and_is_dated(story: Story) -> None:
    story.org("opc", wallet_u=100_000)
    at_us = story.clock()
    with story.database.session() as session:
        scope = listing_scope("owner/cheap")
        publish_fee(session, scope, 0, at_us, "officer", "launch", at_us)
        publish_fee(session, "", 2_000, at_us + DAY_US, "officer", "more", at_us)
        with pytest.raises(Conflict):
            publish_fee(session, "", 100, at_us, "officer", "earlier", at_us)
        for scope in ("owner/cheap", "listing:", "owner:owner", "everybody"):
            with pytest.raises(TokenMartError) as caught:
                publish_fee(session, scope, 100, at_us, "officer", "mistyped", at_us)
            assert caught.value.rule == "fee.scope"
    story.call("opc", 1_000, slug="owner/cheap")
    assert story.journal(FEE) == 0
    story.call("opc", 1_000)
    assert story.journal(FEE) == 100
    story.days(1)
    story.call("opc", 1_000)
    assert story.journal(FEE) == 300
    story.check()


def test_a_refund_after_maturity_is_set_off_and_carried_forward(story: Story) -> None:
    story.org("opc", wallet_u=100_000)
    event = story.call("opc", 1_000)
    story.days(9)
    owner = story.org("owner")
    assert run_jobs(story) == {owner: 900}
    with story.database.session() as session:
        refund(session, "r1", event, 1_000, "broken", "support", story.clock())
    assert story.journal(FEE) == 0
    assert run_jobs(story) == {}  # it owes 900: carried forward
    story.call("opc", 3_000)
    story.days(9)
    assert run_jobs(story) == {owner: 1_800}
    assert story.balance(owner_available(owner)) == 2_700
    assert story.journal(owner_unsettled(owner)) == 0
    story.check()


@pytest.mark.parametrize("payout_on", ["usage", "funder_settled"])
def test_what_a_funder_refuses_is_the_owners_loss_once(story: Story, payout_on: str) -> None:
    made = story.programme(rules(payout_on=payout_on), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    for cost_u in (1_000, 2_000):
        story.call("opc", cost_u)
    owner = story.org("owner")
    story.days(32)
    run_jobs(story)
    settle_all(story, made, refuse=1)
    run_jobs(story)
    story.org("opc", wallet_u=5_000)
    story.call("opc", 5_000)  # paid by the wallet: the grant has lapsed
    story.days(9)
    run_jobs(story)
    assert story.balance(owner_available(owner)) == 1_800 + 4_500
    assert story.journal(owner_unsettled(owner)) == 0
    story.check()


def test_what_a_payer_refuses_after_the_audit_is_taken_once_more(story: Story) -> None:
    made = story.programme(rules(payout_on="usage"), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    for cost_u in (1_000, 2_000, 4_000):
        story.call("opc", cost_u)
    owner = story.org("owner")
    story.days(32)
    run_jobs(story)
    with story.database.session() as session:
        who = funder(session, "city").id
        claims.draft(session, "clm_1", made, who, JANUARY, "a", story.clock())
        claims.submit(session, "clm_1", [], "b", story.clock())
        said = [Verdict(1, False, "no")]
        claims.audit(session, "clm_1", said, "c", story.clock(), rest=True)
    before = _net(story, owner)
    run_jobs(story)
    assert _net(story, owner) == before - 270
    with story.database.session() as session:
        claims.refuse(session, "clm_1", [2], "not ours", "d", story.clock())
        claims.refuse(session, "clm_1", [2], "not ours", "d", story.clock())
    for _ in range(2):
        run_jobs(story)
        assert _net(story, owner) == before - 270 - 540
    with story.database.session() as session:
        assert claims.settle(session, "clm_1", "bank", "e", story.clock()).allowed_u == 1_200
    run_jobs(story)
    assert _net(story, owner) == before - 270 - 540
    story.check()


def _net(story: Story, org_id: str) -> int:
    """Return all that was ever accrued for an organisation."""
    with story.database.reading() as session:
        return sum(row.net_u for row in session.exec(select(Accrual)) if row.org_id == org_id)


def test_nothing_moves_under_review(story: Story) -> None:
    story.org("opc", wallet_u=10_000)
    story.call("opc", 1_000)
    owner = story.org("owner")
    story.days(9)
    with story.database.session() as session:
        hold(session, "h1", owner, "filing under review", "anna", story.clock())
    assert run_jobs(story) == {}
    with story.database.session() as session, pytest.raises(Forbidden):
        release(session, "h1", "anna", story.clock())
    with story.database.session() as session:
        release(session, "h1", "ben", story.clock())
    assert run_jobs(story) == {owner: 900}
    story.check()


def _earned(story: Story) -> str:
    """Return an owner whose share of a call has matured."""
    story.org("opc", wallet_u=10_000)
    story.call("opc", 5_000)
    owner = story.org("owner")
    story.days(9)
    run_jobs(story)
    return owner


def test_a_payout_that_was_prepared_is_not_approved_under_review(story: Story) -> None:
    owner, at_us = _earned(story), story.clock
    with story.database.session() as session:
        service.prepare(session, "p1", owner, "anna", at_us())
        hold(session, "h1", owner, "filing under review", "anna", at_us())
    with story.database.session() as session, pytest.raises(Conflict, match="under review"):
        service.approve(session, "p1", "ben", at_us())
    with story.database.session() as session:
        release(session, "h1", "ben", at_us())
        assert service.approve(session, "p1", "ben", at_us()).state == "approved"
    story.check()


def test_what_went_out_in_a_file_is_not_asked_for_again(story: Story) -> None:
    owner, at_us = _earned(story), story.clock
    with story.database.session() as session:
        service.prepare(session, "p1", owner, "anna", at_us())
        service.approve(session, "p1", "ben", at_us())
        files.export(session, "f1", "ben", at_us())
    with story.database.session() as session, pytest.raises(Conflict, match="No payout"):
        files.export(session, "f2", "ben", at_us())
    story.check()


def test_a_payout_from_preparation_to_the_bank_and_back(story: Story) -> None:
    owner, at_us = _earned(story), story.clock
    with story.database.session() as session:
        service.prepare(session, "p1", owner, "anna", at_us())
        service.prepare(session, "p1", owner, "anna", at_us())
        with pytest.raises(Conflict, match="0 micro-yuan"):
            service.prepare(session, "p2", owner, "anna", at_us())
        with pytest.raises(Forbidden, match="second person"):
            service.approve(session, "p1", "anna", at_us())
        service.approve(session, "p1", "ben", at_us())
        sent = files.export(session, "f1", "ben", at_us())
        assert files.export(session, "f1", "ben", at_us()).sha256 == sent.sha256
        told = files.as_json(session, "f1")
        rows = list(csv.reader(io.StringIO(files.as_csv(session, "f1").decode("utf-8-sig"))))
    assert told["total_u"] == told["payouts"][0]["amount_u"] == 4_500
    assert rows[-1][:2] == ["TOTAL", "1"]
    assert rows[1][4] == "0.004500"
    assert story.balance(owner_paying(owner)) == 4_500
    with story.database.session() as session:
        service.paid(session, "p1", "bank-9", "ben", at_us())
        service.paid(session, "p1", "bank-9", "ben", at_us())
    assert story.balance(owner_paying(owner)) == 0
    with story.database.session() as session:
        with pytest.raises(Forbidden):
            service.reverse(session, "p1", "account closed", "ben", at_us())
        service.reverse(session, "p1", "account closed", "anna", at_us())
        service.reverse(session, "p1", "account closed", "anna", at_us())
    assert story.balance(owner_available(owner)) == 4_500
    story.check()


def test_a_statement_is_the_ledger_to_the_micro(story: Story) -> None:
    made = story.programme(rules(subsidy={"ratio_bp": 5000}), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    story.org("opc", wallet_u=10_000)
    for cost_u in (999, 1_234, 7):
        event = story.call("opc", cost_u)
    with story.database.session() as session:
        refund(session, "r1", event, 2, "half", "support", story.clock())
    owner = story.org("owner")
    story.days(9)
    run_jobs(story)
    with story.database.session() as session:
        service.prepare(session, "p1", owner, "anna", story.clock(), amount_u=500)
    balance = story.balance(owner_available(owner))
    story.days(23)
    with story.database.session() as session:
        first = statement(session, owner, "2026-01", story.clock())
        again = statement(session, owner, "2026-01", story.clock())
    told = json.loads(first.body)
    assert again.sha256 == first.sha256
    assert told["available"]["closing_u"] == balance
    assert told["available"]["payouts_u"] == -500
    usage, back = told["earned"]["usage"], told["earned"]["refund"]
    all_u = usage["net_u"] + usage["waiting_for_funders_u"] + back["net_u"]
    assert all_u == story.journal(owner_unsettled(owner)) + balance + 500
    story.check()


def test_adjustments_need_two_persons_and_no_public_money(story: Story) -> None:
    story.org("opc", wallet_u=1_000)
    owner = story.org("owner")
    story.call("opc", 500)
    source, to = owner_unsettled(owner), wallet(story.org("opc"))
    with story.database.session() as session:
        adjustments.propose(session, "a1", source, to, 100, "goodwill", "anna", story.clock())
        with pytest.raises(Forbidden):
            adjustments.book(session, "a1", "anna", story.clock())
        adjustments.book(session, "a1", "ben", story.clock())
        adjustments.book(session, "a1", "ben", story.clock())
        with pytest.raises(Exception, match="not adjusted by hand"):
            adjustments.propose(session, "a2", "grant:x", to, 1, "cash", "anna", story.clock())
    assert story.balance(to) == 600
    story.days(9)
    assert run_jobs(story) == {owner: 350}
    story.check()
