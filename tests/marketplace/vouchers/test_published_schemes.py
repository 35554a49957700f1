"""Every published scheme as a programme, each with a case worked by hand.

Amounts here are in yuan for the reader; `u` turns them into micro-yuan. What the published text leaves
open is named in each example's `unresolved`, and the numbers that rest on it say "illustration".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import pytest

from catalog.ground.clock import from_datetime, zone
from catalog.ground.errors import NotFound
from marketplace.vouchers.caps import Against, Counted, cap_keys, contract_grant_u, size
from marketplace.vouchers.examples import codes, example
from marketplace.vouchers.plan import Plan
from marketplace.vouchers.rules import Issued, Programme
from marketplace.vouchers.terms import Facts, FactValue
from marketplace.vouchers.waterfall import Ladder, build_ladder, replay

WALLET = 0
PLENTY = 10**17
ORG = Against("org_1", "contract_1", "provider_1")


def u(yuan: float) -> int:
    return round(yuan * 1_000_000)


def beijing(day: str, hour: int = 12) -> int:
    return from_datetime(datetime.fromisoformat(day).replace(hour=hour, tzinfo=zone))


def known(**facts: FactValue) -> dict[str, FactValue]:
    """`org__region="4403"` reads better in a call than a dictionary of dotted names."""
    others: dict[str, FactValue] = {"listing.self_owned": False, "listing.related_party": False}
    return others | {key.replace("__", "."): value for key, value in facts.items()}


def ladder(facts: Facts, at_us: int, *programmes: Programme) -> Ladder:
    """Grants 1, 2, … of the programmes, in that order."""
    terms = [
        programme.terms(Issued(f"grt_{i}", i, at_us, programme.expiry_us(at_us)))
        for i, programme in enumerate(programmes, 1)
    ]
    return build_ladder(terms, facts, wallet_account_id=WALLET, at_us=at_us)


def pay(
    yuan: float,
    facts: Facts,
    at_us: int,
    *programmes: Programme,
    left: Mapping[int, int] | None = None,
) -> Plan:
    return ladder(facts, at_us, *programmes).draw(
        u(yuan), {**dict.fromkeys(range(9), PLENTY), **(left or {})}, at_us
    )


def refused(programme: Programme, facts: Facts, at_us: int) -> set[str]:
    return {refusal.rule for refusal in programme.admit(facts, at_us)}


def sized(
    programme: Programme,
    yuan: float,
    facts: Facts,
    at_us: int,
    counted: Mapping[str, Counted] | None = None,
) -> int:
    """How many yuan of `yuan` may be issued; every funder has plenty."""
    pools = {funder: PLENTY for funder, _ in programme.shares}
    return size(programme, u(yuan), facts, ORG, at_us, counted or {}, pools).amount_u // u(1)


def amounts(plan: Plan) -> list[int]:
    return [leg.amount for leg in plan.legs]


# --- Shenzhen and its districts ----------------------------------------------------------------------

SZ = {"org__region": "440305", "org__kind": "enterprise"}


def test_shenzhen_training() -> None:
    p = example("sz-training-2024")
    now = beijing("2025-03-10")
    young = known(
        **SZ,
        org__is_startup=True,
        listing__kind="compute",
        listing__directions=frozenset({"training"}),
    )
    # A contract of 3,000,000: a start-up 60 % = 1,800,000; any other firm 50 % = 1,500,000.
    assert contract_grant_u(p, u(3_000_000), young) == u(1_800_000)
    assert contract_grant_u(p, u(3_000_000), known(**SZ)) == u(1_500_000)
    # Cap 10,000,000 a year: 9,000,000 issued leaves 1,000,000 of the 1,800,000.
    key = next(iter(cap_keys(p, young, ORG, now)))
    assert key == "sz-training-2024/org/org_1/2025"
    assert sized(p, 1_800_000, young, now, {key: Counted(issued_u=u(9_000_000))}) == 1_000_000
    # A bill of 1,000 is paid in full now; 60 % = 600 are owed back.
    plan = pay(1_000, young, now, p)
    assert (amounts(plan), plan.self_u) == ([u(600)], u(1_000))
    assert refused(p, known(**SZ), beijing("2026-12-01")) == {"window.issue"}
    assert refused(p, known(org__region="4401", org__kind="individual"), now) == {
        "eligible.region",
        "eligible.kind",
    }


def test_shenzhen_model() -> None:
    p = example("sz-model-2025")
    now = beijing("2025-06-01")
    filed = known(**SZ, listing__kind="model", listing__filing_status="filed")
    # 事后奖补: 100 paid, 30 % = 30 owed back. A model that is not filed gets nothing, and is told why.
    plan = pay(100, filed, now, p)
    assert (amounts(plan), plan.self_u) == ([u(30)], u(100))
    steps = ladder({**filed, "listing.filing_status": "none"}, now, p)
    assert [(r.rule, r.clause) for r in steps.refusals] == [
        ("items.filed", "深圳市模型券操作规程（2025）")
    ]
    # In principle 1,000,000; at most 2,000,000 for those the office selects.
    assert sized(p, 5_000_000, filed, now) == 1_000_000
    assert sized(p, 5_000_000, {**filed, "org.on_selected_list": True}, now) == 2_000_000


def test_shenzhen_corpus() -> None:
    p = example("sz-corpus-2025")
    bought = known(
        **SZ,
        contract__channels=frozenset({"data-exchange"}),
        contract__supplier_related=False,
        listing__kind="corpus",
    )
    assert refused(p, bought, beijing("2025-09-30", 23)) == set()
    assert refused(p, bought, beijing("2025-10-01", 0)) == {"window.issue"}
    assert refused(p, {**bought, "contract.supplier_related": True}, beijing("2025-09-01")) == {
        "eligible.non-related"
    }
    # 30 % of 8,000,000 = 2,400,000, capped at 2,000,000.
    assert contract_grant_u(p, u(8_000_000), bought) == u(2_400_000)
    assert sized(p, 2_400_000, bought, beijing("2025-09-02")) == 2_000_000


@pytest.mark.parametrize(
    ("code", "region"), [("longgang-model", "440307"), ("guangming-model", "440311")]
)
def test_shenzhen_districts_add_to_what_the_city_leaves(code: str, region: str) -> None:
    city, district = example("sz-model-2025"), example(code)
    facts = known(org__region=region, listing__kind="model", listing__filing_status="filed")
    # City 30 % of 1,000 = 300; the district 30 % of the remaining 700 = 210; the firm bears 490.
    plan = pay(1_000, facts, beijing("2025-06-01"), district, city)
    assert [(leg.grant_id, leg.amount) for leg in plan.legs] == [
        ("grt_2", u(300)),
        ("grt_1", u(210)),
    ]
    assert plan.self_u - sum(amounts(plan)) == u(490)
    assert sized(district, 7_000_000, facts, beijing("2025-06-01")) == 6_000_000


# --- Beijing and its districts -----------------------------------------------------------------------


def test_beijing_compute() -> None:
    p = example("bj-compute-2023")
    now = beijing("2024-05-01")
    contract = known(
        org__region="110108",
        org__dishonest_3y=False,
        org__subsidies=frozenset(),
        contract__signed_on="2023-09-01",
        contract__months=12,
        contract__supplier_related=False,
        listing__kind="compute",
        listing__charge="compute",
    )
    assert refused(p, contract, now) == set()
    assert refused(p, {**contract, "contract.signed_on": "2023-08-31"}, now) == {
        "eligible.contract-date"
    }
    assert refused(p, {**contract, "contract.months": 13}, now) == {"eligible.contract-term"}
    assert refused(p, {**contract, "org.dishonest_3y": True}, now) == {"eligible.clean-record"}
    assert refused(p, {**contract, "org.subsidies": frozenset({"city-compute"})}, now) == {
        "eligible.no-other-subsidy"
    }
    # An unknown record is not a clean one.
    assert refused(p, {k: v for k, v in contract.items() if k != "org.dishonest_3y"}, now) == {
        "eligible.clean-record"
    }
    # 20 % of 12,000,000 = 2,400,000. The year's 2,000,000 count issue and redemption alike: with 500,000
    # issued this year but 1,700,000 redeemed in it (issued last year), 300,000 are left.
    assert contract_grant_u(p, u(12_000_000), contract) == u(2_400_000)
    key = "bj-compute-2023/org/org_1/2024"
    used = {key: Counted(issued_u=u(500_000), used_u=u(1_700_000))}
    assert sized(p, 2_400_000, contract, now, used) == 300_000
    # 500 of compute: 100 back. Storage on the same bill: nothing.
    assert amounts(pay(500, contract, now, p)) == [u(100)]
    storage = ladder({**contract, "listing.charge": "storage"}, now, p)
    assert [refusal.rule for refusal in storage.refusals] == ["items.exclude_charges"]


def test_beijing_advanced_industries() -> None:
    p = example("bj-gaojingjian-2026")
    now = beijing("2026-03-04", 0)
    base = known(
        org__region="110105",
        contract__subsidised_before=False,
        contract__supplier_related=False,
        listing__kind="compute",
    )
    large = {**base, "org.industries": frozenset({"large-model"})}
    other = {**base, "org.industries": frozenset({"retail"})}
    # Actual spend 1,000,000: the best direction 50 % = 500,000 (cap 30,000,000), others 10 % = 100,000
    # (cap 300,000).
    assert contract_grant_u(p, u(1_000_000), large) == u(500_000)
    assert contract_grant_u(p, u(1_000_000), other) == u(100_000)
    assert sized(p, 40_000_000, large, now) == 30_000_000
    assert sized(p, 40_000_000, other, now) == 300_000
    assert sized(p, 40_000_000, base, now) == 300_000
    assert p.claimable(now)
    assert not p.claimable(now - 1)
    assert p.claimable(beijing("2026-04-15", 23))
    assert not p.claimable(beijing("2026-04-16", 0))
    assert refused(p, {**large, "contract.subsidised_before": True}, now) == {
        "eligible.content-once"
    }


def test_beijing_innovation() -> None:
    p = example("bj-innovation-2026")
    now = beijing("2026-02-01")
    facts = known(
        org__region="110108",
        listing__kind="compute",
        provider__licences=frozenset({"idc", "isp"}),
        provider__pflops=300,
        cluster__metering_log=True,
    )
    # 25 % of an actual 1,200,000 = 300,000: whole in a listed incubator (cap 500,000), else 200,000.
    assert contract_grant_u(p, u(1_200_000), facts) == u(300_000)
    assert sized(p, 300_000, {**facts, "org.incubators": frozenset({"bj-listed"})}, now) == 300_000
    assert sized(p, 300_000, {**facts, "org.incubators": frozenset()}, now) == 200_000
    for fact, value, rule in (
        ("provider.pflops", 299, "items.scale"),
        ("cluster.metering_log", False, "items.metering"),
        ("provider.licences", frozenset({"idc"}), "items.licence"),
    ):
        assert [r.rule for r in ladder({**facts, fact: value}, now, p).refusals] == [rule]
    # Valid for a year: issued on 2026-02-01, it lapses at the first instant of 2027-02-01.
    assert p.expiry_us(now) == beijing("2027-02-01", 0)


def test_beijing_token_packs() -> None:
    p = example("bj-sme-token-2026")
    facts = known(
        org__region="110105", org__size="micro", listing__shelves=frozenset({"bj-sme-2026"})
    )
    # 30 % off at once: 1.00 costs 0.70. The provider claims the 0.30.
    plan = pay(1, facts, beijing("2026-08-31", 23), p)
    assert (amounts(plan), plan.self_u, p.rules.claimant) == ([u(0.3)], u(0.7), "provider")
    assert ladder(facts, beijing("2026-09-01", 0), p).refusals[0].rule == "grant.window"
    off = ladder({**facts, "listing.shelves": frozenset()}, beijing("2026-08-01"), p)
    assert [refusal.rule for refusal in off.refusals] == ["items.shelf"]
    assert sized(p, 300_000, facts, beijing("2026-08-01")) == 200_000


def test_haidian_model() -> None:
    p = example("haidian-model-2026")
    now = beijing("2026-05-01")
    facts = known(
        org__region="110108",
        listing__kind="model",
        listing__filing_status="filed",
        provider__admitted=frozenset({"haidian-model-2026"}),
        provider__tokens_per_day=10**12,
        provider__clients=10_000,
        provider__local_clients=500,
    )
    assert amounts(pay(10, facts, now, p)) == [u(5)]
    assert [r.rule for r in ladder({**facts, "provider.local_clients": 499}, now, p).refusals] == [
        "items.clients"
    ]
    # A provider's 50,000,000 bind as well as a firm's 2,000,000: 49,500,000 went through this provider.
    per_org, per_provider = cap_keys(p, facts, ORG, now)
    assert per_provider == "haidian-model-2026/provider/provider_1/"
    assert sized(p, 3_000_000, facts, now) == 2_000_000
    assert (
        sized(p, 3_000_000, facts, now, {per_provider: Counted(issued_u=u(49_500_000))}) == 500_000
    )
    assert per_org == "haidian-model-2026/org/org_1/"


def test_etown_instant() -> None:
    p = example("etown-instant-2026")
    facts = known(
        org__incubators=frozenset({"beijing-etown"}),
        org__credit_checked=True,
        listing__kind="model",
    )
    # 65 % of a negotiated 0.000648: ⌊648 x 0.65⌋ = ⌊421.2⌋ = 421 micro-yuan, 227 remain to pay.
    plan = pay(0.000648, facts, beijing("2026-07-15"), p)
    assert (amounts(plan), plan.self_u) == ([421], 227)
    assert refused(p, facts, beijing("2026-07-14", 23)) == {"window.issue"}
    assert refused(p, {**facts, "org.credit_checked": False}, beijing("2026-08-01")) == {
        "eligible.credit"
    }


def test_etown_ten_measures() -> None:
    compute, token, instant = map(
        example, ("etown-compute-2026", "etown-token-2026", "etown-instant-2026")
    )
    now = beijing("2026-08-07")
    facts = known(org__incubators=frozenset({"beijing-etown"}), org__credit_checked=True)
    assert amounts(pay(10, {**facts, "listing.kind": "compute"}, now, compute, token)) == [u(3)]
    assert amounts(pay(10, {**facts, "listing.kind": "model"}, now, compute, token)) == [u(5)]
    # Beside the instant platform's 65 % on the same tokens, the better one pays, not both.
    assert amounts(pay(10, {**facts, "listing.kind": "model"}, now, token, instant)) == [u(6.5)]
    assert sized(compute, 25_000_000, facts, now) == 20_000_000
    assert sized(token, 25_000_000, facts, now) == 5_000_000


def test_tongzhou_one_cap_for_model_and_compute() -> None:
    model, compute = example("tongzhou-opc-model"), example("tongzhou-opc-compute")
    now = beijing("2026-05-01")
    facts = known(org__region="110112", org__is_opc=True)
    key = "group:tongzhou-opc/group/org_1/2026"
    assert (
        list(cap_keys(model, facts, ORG, now)) == list(cap_keys(compute, facts, ORG, now)) == [key]
    )
    # 350,000 were issued for models; of 200,000 asked for compute, 500,000 - 350,000 = 150,000 fit.
    assert sized(compute, 200_000, facts, now, {key: Counted(issued_u=u(350_000))}) == 150_000
    assert refused(model, {**facts, "org.is_opc": False}, now) == {"eligible.opc"}


def test_fengtai_better_one_not_both() -> None:
    district, city = example("fengtai-2025"), example("bj-compute-2023")
    now = beijing("2025-06-01")
    facts = known(
        org__region="110106",
        org__industries=frozenset({"industrial"}),
        org__dishonest_3y=False,
        listing__kind="compute",
        listing__charge="compute",
        org__subsidies=frozenset(),
        contract__signed_on="2025-01-01",
        contract__months=6,
        contract__supplier_related=False,
    )
    # Industrial 30 % against the city's 20 % on the same content: 300 of 1,000, and the city nothing.
    steps = ladder(facts, now, city, district)
    plan = pay(1_000, facts, now, city, district)
    assert [(leg.grant_id, leg.amount) for leg in plan.legs] == [("grt_2", u(300))]
    assert [(r.grant_id, r.rule) for r in steps.explain(plan)] == [("grt_1", "stack.class")]
    assert sized(district, 5_000_000, facts, now) == 3_000_000
    assert sized(district, 5_000_000, {**facts, "org.industries": frozenset()}, now) == 2_000_000


# --- other cities and provinces ----------------------------------------------------------------------


def test_shanghai_up_to_all_of_it_together() -> None:
    city, nation, district = map(
        example, ("sh-compute-2025", "sh-national-smart", "sh-district-compute")
    )
    now = beijing("2025-08-01")
    facts = known(org__region="310115", listing__kind="compute")
    # Each on the list price of 1,000: nation 50 % = 500 (illustration), city 30 % = 300, and of the
    # district's 40 % = 400 (illustration) the 200 that complete 100 %.
    plan = pay(1_000, facts, now, city, nation, district)
    assert [(leg.grant_id, leg.amount) for leg in plan.legs] == [
        ("grt_2", u(500)),
        ("grt_1", u(300)),
        ("grt_3", u(200)),
    ]
    assert plan.self_u == 0
    # Settled at 333.333333: ⌊166.6666665⌋, ⌊99.9999999⌋ and what is left up to 40 %: 66.666668.
    done = replay(plan, 333_333_333)
    assert [leg.amount for leg in done.legs] == [166_666_666, 99_999_999, 66_666_668]
    assert city.expiry_us(now) == beijing("2026-08-01", 0)


def test_shanghai_model_and_corpus() -> None:
    model, corpus = example("sh-model-2025"), example("sh-corpus-2025")
    now = beijing("2025-08-01")
    facts = known(org__region="310104", contract__supplier_related=False)
    assert amounts(pay(10, {**facts, "listing.kind": "model"}, now, model, corpus)) == [u(5)]
    assert amounts(pay(10, {**facts, "listing.kind": "corpus"}, now, model, corpus)) == [u(3)]
    assert sized(model, 6_000_000, facts, now) == sized(corpus, 6_000_000, facts, now) == 5_000_000
    assert refused(corpus, {**facts, "contract.supplier_related": True}, now) == {
        "eligible.non-related"
    }


def test_hangzhou() -> None:
    p = example("hz-compute-2025")
    now = beijing("2025-07-01")
    facts = known(org__region="330106", contract__channels=frozenset({"hz-dispatch"}))
    filed = {**facts, "listing.kind": "model", "listing.filing_status": "filed"}
    chips = {**facts, "listing.kind": "compute", "cluster.chip_origin": "domestic"}
    other = {**facts, "listing.kind": "compute", "cluster.chip_origin": "foreign"}
    # A filed model or domestic chips 30 %, others 20 % of 1,000.
    assert [amounts(pay(1_000, case, now, p)) for case in (filed, chips, other)] == [
        [u(300)],
        [u(300)],
        [u(200)],
    ]
    assert sized(p, 9_000_000, facts, now) == 8_000_000
    assert p.rules.audit.always_above_u == u(500_000)
    assert refused(p, known(org__region="330106"), now) == {"eligible.dispatch"}


def test_xihu_progressive_scale() -> None:
    p = example("xihu-compute")
    now = beijing("2026-05-01")
    facts = known(org__region="330106", listing__kind="compute")
    # Spend 2,500,000 (bounds are an illustration): 50 % of 1,000,000 + 35 % of 1,000,000 + 20 % of
    # 500,000 = 500,000 + 350,000 + 100,000 = 950,000, under the cap of 1,000,000.
    face = contract_grant_u(p, u(2_500_000), facts)
    assert face == u(950_000)
    assert sized(p, face // u(1), facts, now) == 950_000
    parts = p.brackets(face)
    assert parts == ((0, 5000, u(500_000)), (1, 3500, u(350_000)), (2, 2000, u(100_000)))
    terms = [
        p.terms(Issued(f"grt_{n}", n + 1, now, p.expiry_us(now), bracket=n)) for n, _, _ in parts
    ]
    steps = build_ladder(terms, facts, wallet_account_id=WALLET, at_us=now)
    left = {WALLET: PLENTY, **{n + 1: amount for n, _, amount in parts}}
    # A bill of 1,200,000: 500,000 + 35 % of 200,000 = 70,000.
    assert amounts(steps.draw(u(1_200_000), left, now)) == [u(500_000), u(70_000)]
    agent = example("xihu-agent")
    # Agent work: 30 % of 100,000 spent on models = 30,000; cap 500,000.
    on_model = {**facts, "listing.kind": "model"}
    assert amounts(pay(100_000, on_model, now, agent)) == [u(30_000)]
    assert sized(agent, 600_000, facts, now) == 500_000


def test_chengdu() -> None:
    compute, model = example("cd-compute-2025"), example("cd-model-2025")
    now = beijing("2025-10-01")
    facts = known(org__region="510104", provider__admitted=frozenset({"cd-compute-2025"}))
    # Compute 60 % of 1,000 = 600 through a service organisation; interfaces and models 30 % = 300.
    assert amounts(pay(1_000, {**facts, "listing.kind": "compute"}, now, compute, model)) == [
        u(600)
    ]
    assert amounts(pay(1_000, {**facts, "listing.kind": "model"}, now, compute, model)) == [u(300)]
    assert (sized(compute, 9_000_000, facts, now), sized(model, 9_000_000, facts, now)) == (
        5_000_000,
        1_000_000,
    )


def test_sichuan_pool_of_a_selected_firm() -> None:
    p = example("sc-token-2026")
    now = beijing("2026-10-01")
    facts = known(
        org__region="510104",
        org__on_selected_list=True,
        listing__kind="model",
        listing__shelves=frozenset({"domestic-models"}),
    )
    assert refused(p, {**facts, "org.on_selected_list": None}, now) == {"eligible.selected"}
    # A pool of 5,000,000 to 20,000,000: 25,000,000 asked for, 20,000,000 issued.
    assert sized(p, 25_000_000, facts, now) == 20_000_000
    # Paid in full from the pool (illustration) until it ends: 3 of 10 are left in it.
    plan = pay(10, facts, now, p, left={1: u(3)})
    assert (amounts(plan), plan.self_u) == ([u(3)], u(7))


def test_yangzhou_the_county_pays_its_part() -> None:
    p = example("yz-compute")
    now = beijing("2026-05-01")
    facts = known(
        org__region="321003",
        contract__supplier_related=False,
        contract__paid=True,
        contract__subsidised_before=False,
    )
    assert refused(p, facts, now) == set()
    assert refused(p, {**facts, "contract.paid": False}, now) == {"eligible.paid"}
    assert refused(p, {**facts, "contract.subsidised_before": True}, now) == {"eligible.once"}
    # 30 % of 1,000,000 = 300,000, half each (illustrations). With 100,000 left in the county's purse a
    # voucher can be at most 200,000.
    purse = {"yangzhou": PLENTY, "hanjiang": u(100_000)}
    face = contract_grant_u(p, u(1_000_000), facts)
    got = size(p, face, facts, ORG, now, {}, purse)
    assert (face, got.amount_u) == (u(300_000), u(200_000))
    assert [refusal.rule for refusal in got.bound_by] == ["funders.exhausted"]


def test_guizhou() -> None:
    p = example("gz-compute")
    facts = known(org__region="520115")
    # 30 % (illustration) of 200, for compute and for data products.
    for kind in ("compute", "corpus"):
        assert amounts(pay(200, {**facts, "listing.kind": kind}, beijing("2026-05-01"), p)) == [
            u(60)
        ]
    assert p.rules.budget.total_u == u(80_000_000)
    assert p.rules.audit.by == "platform"


def test_langfang_makers_without_legal_personality() -> None:
    p = example("lf-compute")
    now = beijing("2026-05-01")
    maker = known(
        org__region="131003", org__legal_person=False, org__incubators=frozenset({"lf-listed"})
    )
    assert refused(p, maker, now) == set()
    assert refused(p, {**maker, "org.incubators": frozenset()}, now) == {"eligible.maker"}
    listed = {**maker, "listing.kind": "compute", "provider.admitted": frozenset({"lf-compute"})}
    # 30 % (illustration) of 1,000, at an admitted supplier only.
    assert amounts(pay(1_000, listed, now, p)) == [u(300)]
    assert amounts(pay(1_000, {**listed, "provider.admitted": frozenset()}, now, p)) == []


def test_qingyang_supplier_or_demander() -> None:
    p = example("qy-compute")
    facts = known(org__region="621002", listing__kind="compute")
    # 30 % (illustration) of 1,000 is owed to whoever of the two claims first, after a third party's check.
    plan = pay(1_000, facts, beijing("2026-05-01"), p)
    assert (amounts(plan), plan.self_u) == ([u(300)], u(1_000))
    assert (p.rules.claimant, p.rules.anti_fraud.one_claimant_per_contract) == ("either", True)
    assert (p.rules.anti_fraud.no_splitting, p.rules.audit.by) == (True, "third_party")


def test_guangdong_free_interfaces_then_the_plan() -> None:
    free, model = example("gd-opc-free"), example("gd-opc-model")
    now = beijing("2026-11-22")
    facts = known(
        org__region="440305", org__is_opc=True, listing__kind="model", listing__quota_class="public"
    )
    # The first 1,000 calls of a day (illustration) cost nothing; the next is reimbursed at 30 %.
    plan = pay(0.01, facts, now, model, free)
    assert [(leg.grant_id, leg.amount, leg.covered_u) for leg in plan.legs] == [
        ("grt_2", 1, 10_000)
    ]
    plan = pay(0.01, facts, now, model, free, left={2: 0})
    assert [(leg.grant_id, leg.amount) for leg in plan.legs] == [("grt_1", 3_000)]
    # The day ends at midnight in Beijing.
    assert free.expiry_us(now) == beijing("2026-11-23", 0)
    caps = [
        sized(example(f"gd-opc-{kind}"), 99_000_000, facts, now)
        for kind in ("training", "model", "corpus")
    ]
    assert caps == [10_000_000, 2_000_000, 2_000_000]


# --- all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", codes())
def test_every_example_is_marked_and_sourced(code: str) -> None:
    p = example(code)
    assert p.rules.code == code
    assert p.rules.example
    assert p.rules.sources
    assert all(source.document for source in p.rules.sources)
    clauses = [rule.clause for rule in (*p.rules.eligible, *p.rules.items, *p.rules.caps)]
    assert all(clauses)
    # Whatever is an illustration says so where a programme office will read it.
    assert p.rules.sources[0].grade == "P" or p.rules.unresolved or p.rules.sources[0].note


def test_an_unknown_example_names_the_known() -> None:
    with pytest.raises(NotFound, match="sz-model-2025"):
        example("../sz-model-2025")
