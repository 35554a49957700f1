"""Each rule against abuse refuses at its place, by its name and its clause."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.voucher_story import Story, rules

from catalog.ground.clock import DAY_US, SECOND_US
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, Forbidden, PaymentRequired
from catalog.ground.ids import new_id
from marketplace.ledger.chart import grant as grant_code
from marketplace.members.parties import add_link
from marketplace.reports.anomalies import anomalies
from marketplace.reports.sources import month
from marketplace.vouchers import claims
from marketplace.vouchers.codes import CodeTerms, create_code, redeem
from marketplace.vouchers.leases import lease_all
from marketplace.vouchers.periods import period
from marketplace.vouchers.pools import funder
from marketplace.vouchers.rules import load
from marketplace.vouchers.tables import Claim, Programme

CLAUSE = "第九条"
PAPER = {"kind": "contract", "name": "contract.pdf", "sha256": "a" * 64}
LICENCE = {"kind": "credit_check", "name": "licence.pdf", "sha256": "b" * 64}


@pytest.fixture
def story(database: Database) -> Story:
    return Story(database)


def strict(code: str = "tst-token", **anti_fraud: Any) -> dict[str, Any]:
    """Return a programme with these rules against abuse."""
    made: dict[str, Any] = rules(code, anti_fraud={"clause": CLAUSE, **anti_fraud}, window={})
    return made


def refused(error: Forbidden | Conflict) -> tuple[str | None, str]:
    return error.rule, error.details["clause"]


def link(story: Story, first: str, second: str, since_us: int = 0) -> None:
    with story.database.session() as session:
        ids = (story.org(first), story.org(second))
        add_link(session, *ids, "control", by="li", at_us=story.clock(), valid_from_us=since_us)


def draft(story: Story, made: Programme, month: str, code: str = "city") -> Claim:
    with story.database.session() as session:
        who = funder(session, code).id
        return claims.draft(
            session, new_id("clm"), made, who, period(month), "clerk", story.clock()
        )


def audited(story: Story, claim: Claim) -> Claim:
    with story.database.session() as session:
        claims.submit(session, claim.id, [], "clerk", story.clock())
        return claims.audit(session, claim.id, [], "auditor", story.clock(), rest=True)


# --- the application ----------------------------------------------------------------------------------


def test_the_same_content_is_supported_once_whoever_asks(story: Story) -> None:
    once = story.programme(strict("tst-once", same_content_once=True), fund_u=10_000)
    other = story.programme(strict("tst-other"), fund_u=10_000)
    story.grant(once, "opc", 100, "c1", evidence=[PAPER, LICENCE])
    # The rule binds later programmes too, by the contract and by its document, whatever it is called.
    for contract in ("c1", "renamed"):
        with pytest.raises(Forbidden) as caught:
            story.grant(other, "opc", 100, contract, evidence=[PAPER])
        assert refused(caught.value) == ("anti_fraud.same_content_once", CLAUSE)
    # A licence is no content, another's contract of the same name is another contract.
    story.grant(other, "opc", 100, "c2", evidence=[LICENCE])
    story.grant(once, "rival", 100, "c1")
    story.check()


def test_a_contract_is_known_however_its_number_is_written(story: Story) -> None:
    made = story.programme(
        strict(one_voucher_per="contract") | {"evidence": ["contract"]}, fund_u=10_000
    )
    story.grant(made, "opc", 100, "HT-2026 17")
    for written in (" ht-2026  17\n", "ＨＴ－２０２６　１７"):
        with pytest.raises(Forbidden) as caught:
            story.grant(made, "opc", 100, written)
        assert refused(caught.value) == ("anti_fraud.one_voucher_per", CLAUSE)
    with pytest.raises(Forbidden, match="name it"):
        story.grant(made, "opc", 100, " \t")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("signed_on", "2026-02-30"),
        ("signed_on", "zzz"),
        ("months", -1),
        ("amount_u", 2**63),
        ("amount_u", True),
        ("channels", [["dispatch"]]),
        ("channels", [{}]),
        ("paid", 1),
    ],
)
def test_what_a_contract_declares_is_of_its_kind(story: Story, name: str, value: Any) -> None:
    """A day that is none would have passed for late, and stopped every later application's check."""
    made = story.programme(strict(no_splitting=True), fund_u=10_000)
    with pytest.raises(BadRequest) as caught:
        story.grant(made, "opc", 1, "c", provider=story.org("p"), facts={f"contract.{name}": value})
    assert caught.value.rule == "application.facts"


def test_a_contract_is_not_split(story: Story) -> None:
    made = story.programme(strict(no_splitting=True), fund_u=10_000)
    maker, branch = story.org("maker"), story.org("branch")
    with pytest.raises(Forbidden, match="name the provider"):
        story.grant(made, "opc", 100, "c1")
    spring = {"contract.signed_on": "2026-01-10", "contract.months": 6}
    summer = {"contract.signed_on": "2026-06-01", "contract.months": 6}
    autumn = {"contract.signed_on": "2026-07-01", "contract.months": 6}
    story.grant(made, "opc", 100, "c1", provider=maker, facts=spring)
    story.grant(made, "opc", 100, "c2", provider=branch, facts=summer)
    story.grant(made, "opc", 100, "c3", provider=maker, facts=autumn)
    for contract in (summer, {}):
        with pytest.raises(Forbidden) as caught:
            story.grant(made, "opc", 100, "c4", provider=maker, facts=contract)
        assert refused(caught.value) == ("anti_fraud.no_splitting", CLAUSE)
    # A sister of the one with a branch of the other: the same two parties.
    link(story, "opc", "sister")
    link(story, "branch", "twin")
    with pytest.raises(Forbidden, match="one contract"):
        story.grant(made, "sister", 100, "c5", provider=story.org("twin"), facts=summer)


def test_parties_that_belong_together_get_no_voucher(story: Story) -> None:
    asks = {
        "id": "arm",
        "when": {"contract.supplier_related": False},
        "text": "",
        "clause": "第二条",
    }
    made = story.programme(strict() | {"eligible": [asks]}, fund_u=10_000)
    declared = {"contract.supplier_related": False}
    with pytest.raises(Forbidden) as caught:
        story.grant(made, "opc", 100, "c1", provider=story.org("opc"), facts=declared)
    link(story, "opc", "maker")
    with pytest.raises(Forbidden) as caught:
        story.grant(made, "opc", 100, "c1", provider=story.org("maker"), facts=declared)
    # What is on record counts, not what was declared.
    rules_named = [item["rule"] for item in caught.value.details["refused"]]
    assert rules_named == ["eligible.arm", "anti_fraud.related_party"]
    story.grant(made, "opc", 100, "c1", provider=story.org("stranger"), facts=declared)


# --- caps ---------------------------------------------------------------------------------------------


def test_a_provider_s_cap_counts_its_vouchers_and_they_pay_nobody_else(story: Story) -> None:
    cap = {"per": "provider", "amount_u": 700, "clause": "第五条"}
    made = story.programme(rules(caps=[cap]), fund_u=10_000)
    with pytest.raises(Forbidden, match="name the provider") as caught:
        story.grant(made, "opc", 500)
    assert refused(caught.value) == ("caps.provider", "第五条")
    maker = story.org("maker")
    grant = story.grant(made, "opc", 500, provider=maker)
    assert story.grant(made, "rival", 500, provider=maker).amount == 200
    assert story.grant(made, "rival", 500, provider=story.org("other")).amount == 500
    with pytest.raises(PaymentRequired) as paid:
        story.call("opc", 100, owner="other")
    assert paid.value.details["vouchers_refused"][0]["rule"] == "grant.provider"
    story.call("opc", 100, owner="maker")
    assert story.balance(grant_code(grant.id)) == 400
    with story.database.session() as session:
        terms = CodeTerms(10, 1, story.clock() + DAY_US)
        _, secret = create_code(session, "vcd_1", made, terms, "officer", story.clock())
    with story.database.session() as session, pytest.raises(Forbidden, match="a code cannot"):
        redeem(session, "r1", secret, story.org("opc"), "opa", story.clock())
    story.check()


def test_related_organisations_share_a_cap(story: Story) -> None:
    cap = {"per": "org", "amount_u": 1_000, "with_related": True, "clause": "第五条"}
    made = story.programme(rules(caps=[cap]), fund_u=10_000)
    link(story, "opc", "sister")
    assert story.grant(made, "opc", 600).amount == 600
    assert story.grant(made, "sister", 600).amount == 400
    with pytest.raises(Forbidden, match="those related to it") as caught:
        story.grant(made, "opc", 1)
    assert refused(caught.value) == ("caps.org", "第五条")
    assert story.grant(made, "stranger", 600).amount == 600
    with pytest.raises(BadRequest, match="Only organisations"):
        load(json.dumps(rules(caps=[{"per": "contract", "amount_u": 1, "with_related": True}])))
    story.check()


# --- velocity -----------------------------------------------------------------------------------------


def test_nobody_spends_more_a_day_than_the_velocity(story: Story) -> None:
    made = story.programme(strict(velocity_u_per_day=1_000), fund_u=100_000)
    grant = story.grant(made, "opc", 5_000)
    assert (grant.amount, grant.ceiling) == (1_000, 5_000)
    with pytest.raises(Forbidden) as caught:
        story.grant(made, "opc", 100)
    assert refused(caught.value) == ("anti_fraud.velocity_u_per_day", CLAUSE)
    story.call("opc", 700)
    with pytest.raises(PaymentRequired):
        story.call("opc", 400)
    story.days(1)
    # 300 are carried over; 700 more come when the rest is low, and not one more that day.
    story.call("opc", 200)
    story.call("opc", 800)
    with pytest.raises(PaymentRequired):
        story.call("opc", 1)
    story.days(1)
    with story.database.session() as session:
        assert lease_all(session, story.clock()) == 1
    story.call("opc", 1_000)
    with pytest.raises(PaymentRequired):
        story.call("opc", 1)
    story.check()


def test_what_calls_hold_over_midnight_may_be_spent_only_once(story: Story) -> None:
    made = story.programme(strict(velocity_u_per_day=1_000), fund_u=100_000)
    story.grant(made, "opc", 5_000)
    open_call = story.held("opc", 900)
    story.days(1)
    story.call("opc", 50)
    story.settle(open_call, 300)
    story.call("opc", 650)
    with pytest.raises(PaymentRequired):
        story.call("opc", 1)
    story.check()


def test_a_scale_is_not_leased() -> None:
    upto = {"upto": [{"spend_u": 100, "ratio_bp": 5000}, {"spend_u": None, "ratio_bp": 2000}]}
    for more in ({"budget": {"total_u": 100, "tranche_u": 10}}, {"velocity": 10}):
        velocity = more.pop("velocity", None)
        document = strict(velocity_u_per_day=velocity) | {"subsidy": upto} | more
        with pytest.raises(BadRequest, match="issued whole"):
            load(json.dumps(document))


# --- the claim ----------------------------------------------------------------------------------------


def test_too_few_days_wait_and_are_then_refused(story: Story) -> None:
    document = strict(min_distinct_days=3) | {"window": {"grant_ttl_days": 70}}
    made = story.programme(document, fund_u=100_000)
    story.grant(made, "opc", 10_000)
    story.grant(made, "brief", 10_000)
    for _ in range(2):
        story.call("opc", 1_000)
        story.call("brief", 100)
        story.days(1)
    story.days(40)
    with pytest.raises(Conflict, match="nothing to claim"):
        draft(story, made, "2026-01")
    story.call("opc", 1_000)  # the third day
    story.days(30)
    february = audited(story, draft(story, made, "2026-02"))
    assert (february.allowed_u, february.disallowed_u) == (900, 0)
    story.days(31)
    march = draft(story, made, "2026-03")
    assert march.total_u == 60
    with story.database.session() as session:
        claims.submit(session, march.id, [], "clerk", story.clock())
        said = [claims.Verdict(1, True)]
        with pytest.raises(Conflict, match="2 days, and 3") as caught:
            claims.audit(session, march.id, said, "auditor", story.clock())
    assert refused(caught.value) == ("anti_fraud.min_distinct_days", CLAUSE)
    with story.database.session() as session:
        done = claims.audit(session, march.id, [], "auditor", story.clock(), rest=True)
        line = claims.lines(session, march.id)[0]
    assert (done.allowed_u, done.disallowed_u) == (0, 60)
    assert line.reason.startswith("anti_fraud.min_distinct_days: ")
    assert line.reason.endswith(f"({CLAUSE})")
    story.check()


def test_a_link_known_later_refuses_what_it_covered(story: Story) -> None:
    made = story.programme(strict(), fund_u=100_000)
    story.grant(made, "opc", 10_000)
    story.call("opc", 1_000, owner="maker")
    story.days(10)
    since_us = story.clock()
    story.clock.advance(SECOND_US)
    story.call("opc", 2_000, owner="maker")
    story.call("opc", 4_000, owner="stranger")
    story.days(30)
    link(story, "opc", "maker", since_us)
    claim = draft(story, made, "2026-01")
    with story.database.reading() as session:
        flags = anomalies(session, month("2026-01"), story.clock()).sheets[0].rows
    assert [(f["kind"], f["who"], f["with"], f["amount_u"]) for f in flags] == [
        ("rule", "opc", "maker", 600)
    ]
    done = audited(story, claim)
    assert (done.allowed_u, done.disallowed_u) == (1_500, 600)
    story.check()


def test_a_link_known_in_the_middle_of_an_audit_refuses_what_was_allowed_before(
    story: Story,
) -> None:
    made = story.programme(strict(), fund_u=100_000)
    story.grant(made, "opc", 10_000)
    story.call("opc", 1_000, owner="maker")
    story.call("opc", 2_000, owner="stranger")
    story.days(40)
    claim = draft(story, made, "2026-01")
    with story.database.session() as session:
        claims.submit(session, claim.id, [], "clerk", story.clock())
        claims.audit(session, claim.id, [claims.Verdict(1, True)], "auditor", story.clock())
    link(story, "opc", "maker")
    with story.database.session() as session:
        done = claims.audit(session, claim.id, [], "auditor", story.clock(), rest=True)
    assert (done.allowed_u, done.disallowed_u) == (600, 300)
    story.check()
