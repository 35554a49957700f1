"""When money runs short: exhausted funders, tranches, scales, reimbursement, and many at one code."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.voucher_story import NOON_US, Story, rules

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, Forbidden, TokenMartError
from catalog.ground.ids import new_id
from marketplace.ledger.chart import grant as grant_code
from marketplace.ledger.chart import owner_available, pool, reimburse_due, wallet
from marketplace.vouchers import claims, codes
from marketplace.vouchers.backing import back
from marketplace.vouchers.claims import Period, Verdict
from marketplace.vouchers.codes import CodeTerms
from marketplace.vouchers.leases import lease_all
from marketplace.vouchers.pools import appropriate, funder, funders_of
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.returning import lapse
from marketplace.vouchers.tables import Programme

JANUARY = Period("2026-01", NOON_US - DAY_US, NOON_US + 31 * DAY_US)
CITY = [{"funder": "city", "level": "city", "share_bp": 10_000}]


@pytest.fixture
def story(database: Database) -> Story:
    return Story(database)


def fund(story: Story, made: Programme, **amounts_u: int) -> None:
    with story.database.session() as session:
        ids = {funder(session, code).id: amount for code, amount in amounts_u.items()}
        appropriate(session, new_id("fnd"), made.id, ids, story.clock(), by="officer")


def left(story: Story, made: Programme) -> dict[str, int]:
    with story.database.reading() as session:
        from marketplace.vouchers.tables import Funder

        places = {
            session.get_one(Funder, p.funder_id).code: p.funder_id
            for p in funders_of(session, made.id)
        }
    return {code: story.balance(pool(made.id, who)) for code, who in places.items()}


def test_backing_by_letters_is_exact() -> None:
    epochs = [(0, (("a", 5000), ("b", 3000), ("c", 2000)))]
    stop = back(epochs, 0, 1_000, {"a": 10**6, "b": 10**6, "c": 100}, "stop", "p")
    assert 500 <= stop.amount_u <= 505
    assert stop.parts["c"] == 100
    rescaled = back(epochs, 0, 1_000, {"a": 10**6, "b": 10**6, "c": 100}, "rescale", "p")
    assert rescaled.amount_u == sum(rescaled.parts.values()) == 1_000
    assert rescaled.parts["c"] == 100
    assert abs(rescaled.parts["a"] - 900 * 5 / 8) < 3
    covered = back(epochs, 0, 1_000, {"a": 10**6, "b": 10**6, "c": 100}, "platform_covers", "p")
    assert abs(covered.parts["c"] + covered.platform_u - 200) <= 1
    assert back(epochs, 0, 10, {}, "rescale", "p").amount_u == 0


def test_stop_bounds_what_is_issued(story: Story) -> None:
    made = story.programme(rules(on_funder_exhausted="stop"))
    fund(story, made, province=5_000, city=3_000, district=100)
    grant = story.grant(made, "opc", 5_000)
    assert 500 <= grant.amount <= 505
    with pytest.raises(Forbidden) as caught:
        story.grant(made, "opc", 5_000)
    assert caught.value.rule == "funders.exhausted"
    story.check()


def test_rescale_begins_a_new_epoch_and_claims_follow_it(story: Story) -> None:
    made = story.programme(rules(on_funder_exhausted="rescale"))
    fund(story, made, province=5_000, city=3_000, district=100)
    grant = story.grant(made, "opc", 5_000)
    assert grant.amount == 5_000
    assert left(story, made)["district"] == 0
    for cost_u in (400, 321, 1_500):
        story.call("opc", cost_u)
    story.check()
    story.days(32)
    totals = {}
    for code in ("province", "city", "district"):
        with story.database.session() as session:
            who = funder(session, code).id
            claim = claims.draft(session, code, made, who, JANUARY, "clerk", story.clock())
            totals[code] = claim.total_u
        with story.database.session() as session:
            lapse(session, story.clock())
    assert sum(totals.values()) == 2_221
    assert totals["district"] == 100
    assert abs(totals["province"] - (250 + 1_721 * 5 / 8)) < 3
    story.check()


def test_the_platform_covers_for_a_funder(story: Story) -> None:
    made = story.programme(rules(on_funder_exhausted="platform_covers"))
    fund(story, made, province=5_000, city=3_000, district=100)
    assert story.grant(made, "opc", 5_000).amount == 5_000
    rest = left(story, made)
    assert (rest["district"], rest["platform"]) == (0, 0)
    assert abs(rest["province"] - 2_500) <= 1
    assert abs(rest["city"] - 1_500) <= 1
    story.call("opc", 4_321)
    story.check()


def test_budgets_bound_what_is_appropriated(story: Story) -> None:
    funders = [{"funder": "city", "level": "city", "share_bp": 10_000, "budget_u": 500}]
    made = story.programme(rules(funders=funders, budget={"total_u": 800, "clause": "第二条"}))
    fund(story, made, city=400)
    with pytest.raises(Conflict) as caught:
        fund(story, made, city=101)
    assert caught.value.rule == "programme.budget"
    story.check()


def test_tranches_fill_a_grant_as_it_runs_dry(story: Story) -> None:
    made = story.programme(
        rules(
            budget={"total_u": None, "tranche_u": 100},
            caps=[{"per": "org", "amount_u": 270, "clause": "第五条"}],
        ),
        fund_u=10_000,
    )
    grant = story.grant(made, "opc", 1_000)
    assert grant.amount == 100
    story.org("opc", wallet_u=1_000)
    for _ in range(5):
        story.call("opc", 60)  # building the ladder leases what is missing
        with story.database.session() as session:
            lease_all(session, story.clock())
    assert story.balance(wallet(story.org("opc"))) == 1_000 - (300 - 270)
    assert story.balance(grant_code(grant.id)) == 0
    story.check()


def test_a_progressive_scale_is_a_grant_for_each_bracket(story: Story) -> None:
    upto = [{"spend_u": 1_000, "ratio_bp": 5_000}, {"spend_u": None, "ratio_bp": 2_000}]
    made = story.programme(rules(subsidy={"upto": upto}), fund_u=100_000)
    story.grant(made, "opc", 700)
    story.org("opc", wallet_u=10_000)
    story.call("opc", 800)
    story.call("opc", 1_000)  # 1,000 at half and 800 at a fifth: 500 + 160
    assert story.balance(wallet(story.org("opc"))) == 10_000 - (1_800 - 660)
    story.check()


def reimbursing(story: Story) -> Programme:
    document = rules(
        mode="reimburse", claimant="demander", funders=CITY, subsidy={"ratio_bp": 3000}
    )
    return story.programme(document, fund_u=100_000)


def settle(story: Story, made: Programme, name: str, period: Period = JANUARY) -> None:
    with story.database.session() as session:
        who = funder(session, "city").id
        claims.draft(session, name, made, who, period, "clerk", story.clock())
        claims.submit(session, name, [], "clerk", story.clock())
        claims.audit(session, name, [], "auditor", story.clock(), rest=True)
        claims.settle(session, name, "bank", "treasurer", story.clock())


def test_reimbursement_is_paid_to_the_demander_once_the_funder_has_paid(story: Story) -> None:
    made = reimbursing(story)
    story.grant(made, "opc", 50_000)
    opc = story.org("opc", wallet_u=10_000)
    story.call("opc", 1_000)
    event = story.call("opc", 2_000)
    assert story.balance(wallet(opc)) == 7_000
    assert story.journal(reimburse_due(opc)) == 900
    with story.database.session() as session:
        refund(session, "r1", event, 500, "half bad", "support", story.clock())
    assert story.balance(wallet(opc)) == 7_500
    assert story.journal(reimburse_due(opc)) == 750
    story.days(32)
    settle(story, made, "clm_1")
    assert story.journal(reimburse_due(opc)) == 0
    assert story.balance(owner_available(opc)) == 750
    # What was reimbursed is not refunded as cash: 30 % of these 1,000 go back to the voucher.
    with story.database.session() as session:
        refund(session, "r2", event, 1_000, "all bad", "support", story.clock())
    assert story.balance(wallet(opc)) == 7_500 + 700
    story.check()


def test_a_refused_reimbursement_is_not_paid(story: Story) -> None:
    made = reimbursing(story)
    story.grant(made, "opc", 50_000)
    opc = story.org("opc", wallet_u=10_000)
    for cost_u in (1_000, 2_000):
        story.call("opc", cost_u)
    story.days(32)
    with story.database.session() as session:
        who = funder(session, "city").id
        claims.draft(session, "c", made, who, JANUARY, "clerk", story.clock())
        claims.submit(session, "c", [], "clerk", story.clock())
        said = [Verdict(1, False, "related parties")]
        claims.audit(session, "c", said, "auditor", story.clock(), rest=True)
        claims.settle(session, "c", "bank", "treasurer", story.clock())
    assert story.journal(reimburse_due(opc)) == 0
    assert story.balance(owner_available(opc)) == 600
    story.check()


def test_a_claim_needs_its_evidence(story: Story) -> None:
    made = story.programme(rules(evidence=["invoice", "usage_log"]), fund_u=10_000)
    story.grant(made, "opc", 5_000)
    story.call("opc", 100)
    story.days(32)
    with story.database.session() as session:
        who = funder(session, "city").id
        claims.draft(session, "c", made, who, JANUARY, "clerk", story.clock())
        with pytest.raises(BadRequest, match="invoice"):
            claims.submit(session, "c", [], "clerk", story.clock())
        paper = {"kind": "invoice", "name": "invoice.pdf", "sha256": "0" * 64}
        claims.submit(session, "c", [paper], "clerk", story.clock())
    story.check()


def test_150_at_a_code_for_100_get_exactly_100(story: Story) -> None:
    made = story.programme(rules(), fund_u=1_000_000)
    orgs = [story.org(f"opc{n}") for n in range(10)]
    terms = CodeTerms(amount_u=10, uses_max=100, expires_at_us=NOON_US + DAY_US, per_org_max=20)
    with story.database.session() as session:
        _, secret = codes.create_code(session, "vcd_1", made, terms, "officer", NOON_US)

    def redeem(n: int) -> str:
        try:
            with story.database.session() as session:
                return codes.redeem(session, f"tx{n}", secret, orgs[n % 10], "x", NOON_US).id
        except TokenMartError as refusal:
            return refusal.rule or ""

    with ThreadPoolExecutor(150) as pool_of_150:
        results = list(pool_of_150.map(redeem, range(150)))
    assert len({r for r in results if r.startswith("grt_")}) == 100
    assert results.count("code.used_up") == 50
    with story.database.session() as session:
        assert codes.codes(session)[0].uses == 100
        done = next(n for n, r in enumerate(results) if r.startswith("grt_"))
        again = codes.redeem(session, f"tx{done}", secret, orgs[done % 10], "x", NOON_US)
        assert again.id == results[done]
    story.check()


def test_a_code_is_refused_kindly(story: Story) -> None:
    cap = {"per": "org", "amount_u": 15, "clause": "第五条"}
    made = story.programme(rules(caps=[cap]), fund_u=1_000_000)
    opc = story.org("opc")
    with story.database.session() as session:
        terms = CodeTerms(amount_u=10, uses_max=5, expires_at_us=NOON_US + DAY_US, per_org_max=2)
        codes.create_code(session, "c1", made, terms, "officer", NOON_US, "TM-AAAAA-BBBBB")
        one = CodeTerms(amount_u=1, uses_max=5, expires_at_us=NOON_US + DAY_US)
        codes.create_code(session, "c2", made, one, "officer", NOON_US, "TM-CCCCC")
    found = []
    for tx, secret in (("1", "tm aaaaa bbbbb"), ("2", "TM-AAAAA-BBBBB"), ("3", "TM-CCCCC")):
        with story.database.session() as session:
            try:
                found.append(codes.redeem(session, tx, secret, opc, "x", NOON_US).amount)
            except Forbidden as refusal:
                session.rollback()
                found.append(refusal.rule)
    assert found == [10, "caps.org", 1]
    with pytest.raises(Conflict, match="may use this code"), story.database.session() as session:
        codes.redeem(session, "4", "TM-CCCCC", opc, "x", NOON_US)
    with pytest.raises(Conflict, match="expired"), story.database.session() as session:
        codes.redeem(session, "5", "TM-CCCCC", opc, "x", NOON_US + 2 * DAY_US)
    with story.database.reading() as session:
        assert [code.uses for code in codes.codes(session)] == [1, 1]
    story.check()
