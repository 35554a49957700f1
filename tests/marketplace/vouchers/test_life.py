"""The life of a voucher, told from outside: who pays, who gets back, who is claimed from."""

from __future__ import annotations

import pytest
from support.voucher_story import NOON_US, Story, rules

from catalog.ground.clock import DAY_US
from catalog.ground.database import Database
from catalog.ground.errors import Conflict, Forbidden, NotFound
from catalog.ground.ids import new_id
from marketplace.ledger.chart import grant as grant_code
from marketplace.ledger.chart import owner_unsettled, pool, wallet
from marketplace.vouchers import applications, claims
from marketplace.vouchers.applications import Wish
from marketplace.vouchers.claims import Period, Verdict
from marketplace.vouchers.periods import period
from marketplace.vouchers.pools import funder
from marketplace.vouchers.refunds import refund
from marketplace.vouchers.returning import lapse, void
from marketplace.vouchers.tables import Claim

JANUARY = Period("2026-01", NOON_US - DAY_US, NOON_US + 31 * DAY_US)


@pytest.fixture
def story(database: Database) -> Story:
    return Story(database)


def claim_all(story: Story, programme_id: str, period: Period = JANUARY) -> dict[str, Claim]:
    """Draft every funder's claim; returns them by funder code."""
    found = {}
    with story.database.session() as session:
        from marketplace.vouchers.tables import Programme

        made = session.get_one(Programme, programme_id)
        for code in ("province", "city", "district"):
            who = funder(session, code).id
            found[code] = claims.draft(
                session, new_id("clm"), made, who, period, "clerk", story.clock()
            )
    return found


def test_from_application_to_settlement(story: Story) -> None:
    made = story.programme(rules(), fund_u=1_000_000)
    grant = story.grant(made, "opc", 100_000)
    costs = [1, 2, 3, 97, 1001, 333, 7]  # 1,444 in all: 722 / 433.2 / 288.8 to the letter
    for cost_u in costs:
        story.call("opc", cost_u)
    assert story.balance(grant_code(grant.id)) == 100_000 - 1444
    story.days(32)
    drafted = claim_all(story, made.id)
    totals = {code: claim.total_u for code, claim in drafted.items()}
    assert sum(totals.values()) == 1444
    assert abs(totals["province"] - 722) < 1
    assert abs(totals["city"] - 433.2) < 1
    assert abs(totals["district"] - 288.8) < 1
    story.check()
    with story.database.session() as session:
        for claim in drafted.values():
            claims.submit(session, claim.id, [], "clerk", story.clock())
            claims.audit(session, claim.id, [], "auditor", story.clock(), rest=True)
            claims.settle(session, claim.id, "bank-1", "treasurer", story.clock())
            again = claims.settle(session, claim.id, "bank-1", "treasurer", story.clock())
            assert again.state == "settled"
    assert sum(-story.journal(f"settled:{made.id}:{c.funder_id}") for c in drafted.values()) == 1444
    story.check()
    with story.database.session() as session, pytest.raises(Conflict, match="nothing to claim"):
        who = funder(session, "city").id
        claims.draft(session, new_id("clm"), made, who, JANUARY, "clerk", story.clock())


def test_four_eyes(story: Story) -> None:
    made = story.programme(rules(), fund_u=1_000_000)
    at_us = story.clock()
    with story.database.session() as session:
        row = applications.apply(
            session, "app_1", made, story.org("opc"), Wish(5000), "anna", at_us
        )
        for who in ("anna",):
            with pytest.raises(Forbidden, match="second person"):
                applications.prepare(session, row.id, 4000, who)
        applications.prepare(session, row.id, 4000, "ben")
        for who in ("anna", "ben"):
            with pytest.raises(Forbidden, match="second person"):
                applications.approve(session, row.id, who, at_us)
        grants = applications.approve(session, row.id, "cleo", at_us)
        assert [g.amount for g in grants] == [4000]
        again = applications.approve(session, row.id, "cleo", at_us)
        assert [g.id for g in again] == [g.id for g in grants]
    story.call("opc", 100)
    story.days(32)
    drafted = claim_all(story, made.id)["province"]
    with story.database.session() as session:
        claims.submit(session, drafted.id, [], "dora", story.clock())
        for who in ("clerk", "dora"):
            with pytest.raises(Forbidden, match="second person"):
                claims.audit(session, drafted.id, [], who, story.clock(), rest=True)
        claims.audit(session, drafted.id, [], "emil", story.clock(), rest=True)
        for who in ("clerk", "dora", "emil"):
            with pytest.raises(Forbidden, match="second person"):
                claims.settle(session, drafted.id, "bank", who, story.clock())
        claims.settle(session, drafted.id, "bank", "fritz", story.clock())
    story.check()


def test_refusals_name_rule_and_clause(story: Story) -> None:
    eligible = [
        {
            "id": "active",
            "when": {"org.is_opc": True},
            "text": "One-person companies only.",
            "clause": "第三条",
        }
    ]
    made = story.programme(rules(eligible=eligible), fund_u=1000)
    org_id = story.org("opc")
    with story.database.session() as session, pytest.raises(Forbidden) as caught:
        applications.apply(session, "app_1", made, org_id, Wish(10), "anna", story.clock())
    assert caught.value.rule == "eligible.active"
    assert caught.value.details["clause"] == "第三条"


def test_no_voucher_is_issued_that_has_expired_already(story: Story) -> None:
    window = {"use": [None, "2025-12-31"], "clause": "第五条"}
    made = story.programme(rules(window=window), fund_u=10_000)
    with pytest.raises(Forbidden) as caught:
        story.grant(made, "opc", 100)
    assert (caught.value.rule, caught.value.details["clause"]) == ("window.use", "第五条")


def test_caps_and_pools_bound_what_is_approved(story: Story) -> None:
    cap = {"per": "org", "amount_u": 700, "clause": "第五条"}
    made = story.programme(rules(caps=[cap]), fund_u=100_000)
    assert story.grant(made, "opc", 500).amount == 500
    assert story.grant(made, "opc", 500).amount == 200
    with pytest.raises(Forbidden) as caught:
        story.grant(made, "opc", 500)
    assert caught.value.rule == "caps.org"
    assert caught.value.details["clause"] == "第五条"
    # What lapses unused gives its room back where used vouchers count.
    story.check()


def test_lapse_returns_the_rest_to_who_backed_it(story: Story) -> None:
    made = story.programme(rules(), fund_u=1_000)
    grant = story.grant(made, "opc", 1_000)
    story.call("opc", 333)
    open_call = story.held("opc", 100)
    story.days(31)
    with story.database.session() as session:
        assert lapse(session, story.clock()) == 1
        assert lapse(session, story.clock()) == 0
    assert story.balance(grant_code(grant.id)) == 0
    story.check()
    story.settle(
        open_call, 60
    )  # what the call did not use of its hold comes back with the next run
    with story.database.session() as session:
        assert lapse(session, story.clock()) == 1
    left = {}
    with story.database.reading() as session:
        for code in ("province", "city", "district"):
            left[code] = funder(session, code).id
    pools = {code: story.balance(pool(made.id, who)) for code, who in left.items()}
    assert sum(pools.values()) == 1000 - 393
    assert abs(pools["province"] - 303.5) < 1
    story.check()


def test_void_takes_a_grant_away(story: Story) -> None:
    made = story.programme(rules(), fund_u=1_000)
    grant = story.grant(made, "opc", 1_000)
    story.call("opc", 10)
    with story.database.session() as session:
        void(session, grant.id, "obtained by deceit", story.clock())
        void(session, grant.id, "obtained by deceit", story.clock())
    story.org("opc", wallet_u=50)
    story.call("opc", 50)
    assert story.balance(wallet(story.org("opc"))) == 0
    story.check()


def test_refunds_go_back_to_their_source_and_never_to_cash(story: Story) -> None:
    made = story.programme(rules(subsidy={"ratio_bp": 6000}), fund_u=10_000)
    grant = story.grant(made, "opc", 10_000)
    story.org("opc", wallet_u=1_000)
    event = story.call("opc", 1_000)  # 600 from the voucher, 400 of its own
    purse = wallet(story.org("opc"))
    assert (story.balance(purse), story.balance(grant_code(grant.id))) == (600, 9_400)
    with story.database.session() as session:
        refund(session, "r1", event, 300, "wrong answer", "support", story.clock())
        refund(session, "r1", event, 300, "wrong answer", "support", story.clock())
    assert (story.balance(purse), story.balance(grant_code(grant.id))) == (900, 9_400)
    with story.database.session() as session:
        refund(session, "r2", event, 300, "wrong answer", "support", story.clock())
    assert (story.balance(purse), story.balance(grant_code(grant.id))) == (1_000, 9_600)
    with story.database.session() as session, pytest.raises(Conflict, match="400 micro-yuan"):
        refund(session, "r3", event, 401, "greed", "support", story.clock())
    story.days(31)
    with story.database.session() as session:
        lapse(session, story.clock())
        refund(session, "r4", event, 400, "wrong answer", "support", story.clock())
    assert story.balance(purse) == 1_000
    assert story.balance(grant_code(grant.id)) == 0
    assert story.journal(owner_unsettled(story.org("owner"))) == 0
    story.check()


def test_partial_refunds_between_calls_keep_every_funder_exact(story: Story) -> None:
    made = story.programme(rules(), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    for n in range(12):
        event = story.call("opc", 17 + n)
        with story.database.session() as session:
            refund(session, f"r{n}", event, 1 + n % 5, "test", "support", story.clock())
    story.check()
    story.days(32)
    drafted = claim_all(story, made.id)
    used = sum(17 + n - 1 - n % 5 for n in range(12))
    assert sum(claim.total_u for claim in drafted.values()) == used
    story.check()


def test_a_claimed_leg_is_refunded_by_the_next_claim(story: Story) -> None:
    made = story.programme(rules(window={"grant_ttl_days": 300}), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    event = story.call("opc", 1_000)
    story.days(32)
    first = claim_all(story, made.id)
    with story.database.session() as session:
        for claim in first.values():
            claims.submit(session, claim.id, [], "clerk", story.clock())
            claims.audit(session, claim.id, [], "auditor", story.clock(), rest=True)
        refund(session, "r1", event, 400, "test", "support", story.clock())
    story.check()
    story.call("opc", 5_000)
    story.days(30)
    february = Period("2026-02", JANUARY.until_us, JANUARY.until_us + 28 * DAY_US)
    second = claim_all(story, made.id, february)
    assert sum(c.total_u for c in first.values()) == 1_000
    assert sum(c.total_u for c in second.values()) == 4_600
    story.check()


def test_disallowed_lines_are_borne_by_the_owner_and_clawbacks_follow(story: Story) -> None:
    made = story.programme(rules(clawback={"months": 36}), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    for cost_u in (1_000, 2_000, 3_000):
        story.call("opc", cost_u)
    story.days(32)
    owner = owner_unsettled(story.org("owner"))
    before = story.journal(owner)
    city = claim_all(story, made.id)["city"]
    with story.database.session() as session:
        rows = claims.lines(session, city.id)
        claims.submit(session, city.id, [], "clerk", story.clock())
        refused = [Verdict(rows[0].n, False, "no metering log")]
        claims.audit(session, city.id, refused, "auditor", story.clock())
        assert claims.claim(session, city.id).state == "submitted"
        claims.audit(session, city.id, [], "auditor", story.clock(), rest=True)
        claims.settle(session, city.id, "bank-7", "treasurer", story.clock())
        told = claims.claim(session, city.id)
    assert (told.allowed_u, told.disallowed_u) == (1_500, 300)
    assert story.journal(owner) == before - 300
    story.check()
    with story.database.session() as session:
        with pytest.raises(NotFound, match="no such line"):
            claims.clawback(session, city.id, [2, 9], "mistyped", "officer", story.clock())
        claims.clawback(session, city.id, [2], "ineligible", "officer", story.clock())
        claims.clawback(session, city.id, [2], "ineligible", "officer", story.clock())
    assert story.journal(owner) == before - 900
    story.check()
    story.days(36 * 31)
    with story.database.session() as session, pytest.raises(Conflict, match="36 months"):
        claims.clawback(session, city.id, [3], "late", "officer", story.clock())


def test_a_withdrawn_claim_frees_its_lines(story: Story) -> None:
    made = story.programme(rules(), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    story.call("opc", 1_000)
    story.days(32)
    first = claim_all(story, made.id)["city"]
    with story.database.session() as session:
        claims.withdraw(session, first.id, "clerk", story.clock())
        who = first.funder_id
        second = claims.draft(session, "clm_2", made, who, JANUARY, "clerk", story.clock())
    assert second.total_u == first.total_u == 300
    story.check()


def test_what_a_withdrawn_claim_had_collected_is_claimed_though_later_ones_went_past(
    story: Story,
) -> None:
    made = story.programme(rules(window={"grant_ttl_days": 300}), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    for _ in range(3):
        story.call("opc", 1_000)
        story.days(31)
    with story.database.session() as session:
        who = funder(session, "city").id

        def claim(name: str) -> Claim:
            return claims.draft(
                session, new_id("clm"), made, who, period(name), "clerk", story.clock()
            )

        first, _ = claim("2026-02"), claim("2026-03")
        assert (first.lines, first.total_u) == (2, 600)
        claims.withdraw(session, first.id, "clerk", story.clock())
        again = claim("2026-03")
        assert (again.lines, again.total_u) == (2, 600)
    story.check()


def test_whoever_allowed_a_line_does_not_settle_though_another_ended_the_audit(
    story: Story,
) -> None:
    made = story.programme(rules(), fund_u=100_000)
    story.grant(made, "opc", 50_000)
    story.call("opc", 1_000)
    story.call("opc", 1_000)
    story.days(32)
    city = claim_all(story, made.id)["city"]
    with story.database.session() as session:
        claims.submit(session, city.id, [], "clerk", story.clock())
        claims.audit(session, city.id, [Verdict(1, True)], "first", story.clock())
        claims.audit(session, city.id, [], "second", story.clock(), rest=True)
        for by in ("first", "second"):
            with pytest.raises(Forbidden, match="second person"):
                claims.settle(session, city.id, "bank-1", by, story.clock())
        assert claims.settle(session, city.id, "bank-1", "third", story.clock()).state == "settled"
    story.check()
