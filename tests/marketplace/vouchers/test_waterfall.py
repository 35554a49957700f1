"""The waterfall: order, exact draws, and that settling always fits what was held."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest, LedgerCorrupt
from marketplace.vouchers.plan import REIMBURSE, Plan
from marketplace.vouchers.waterfall import GrantTerms, Ladder, build_ladder, largest, replay

WALLET = 99
FACTS = {
    "listing.self_owned": False,
    "listing.related_party": False,
    "listing.quota_class": "small",
}


def ladder(*grants: dict[str, Any], **options: Any) -> Ladder:
    terms = [
        GrantTerms(**{"grant_id": f"grt_{i}", "account_id": i, "programme": f"p{i}@1", **grant})
        for i, grant in enumerate(grants, 1)
    ]
    options = {"wallet_account_id": WALLET, "at_us": 0, **options}
    return build_ladder(terms, options.pop("facts", FACTS), **options)


def draws(plan: Plan) -> list[tuple[int, int]]:
    return [(leg.account_id, leg.amount) for leg in plan.legs]


# --- order -------------------------------------------------------------------------------------------


def test_free_quota_then_exclusive_then_stackable_then_wallet() -> None:
    steps = ladder(
        {"ratio_bp": 5000, "priority": 20},
        {"ratio_bp": 3000, "stacking": "exclusive", "stack_class": "city"},
        {"free_quota": True},
        {"ratio_bp": 5000, "priority": 10},
    )
    plan = steps.draw(1000, {1: 10_000, 2: 10_000, 3: 100, 4: 10_000, WALLET: 10_000}, 0)
    # Free 100 leaves 900; exclusive 30 % of 900 = 270 leaves 630; priority 10: 315; priority 20: ⌊157.5⌋.
    assert draws(plan) == [(3, 100), (2, 270), (4, 315), (1, 157)]
    assert (plan.self_u, plan.shortfall_u) == (158, 0)


def test_ties_go_by_item_then_expiry_then_remaining_then_id() -> None:
    steps = ladder(
        {"grant_id": "b", "remaining": 5},
        {"grant_id": "a", "remaining": 5},
        {"remaining": 4},
        {"expires_at_us": 50},
        {"item_specific": True},
    )
    assert [step.account_id for step in steps.steps] == [5, 4, 3, 2, 1]


def test_better_of_takes_the_highest_ratio_and_the_earliest_expiry() -> None:
    better = {"stacking": "better_of", "stack_class": "city"}
    steps = ladder(
        {"ratio_bp": 3000, **better},
        {"ratio_bp": 5000, "expires_at_us": 70, **better},
        {"ratio_bp": 5000, "expires_at_us": 60, **better},
        {"ratio_bp": 5000, "stack_class": "city"},
        {"ratio_bp": 1000, "stack_class": "district"},
    )
    left = {1: 9_000, 2: 9_000, 3: 9_000, 4: 9_000, 5: 9_000, WALLET: 9_000}
    assert draws(steps.draw(1000, left, 0)) == [(3, 500), (5, 50)]
    # When the best has run out or expired, the next of its class pays.
    assert draws(steps.draw(1000, left, 65))[0] == (2, 500)
    assert draws(steps.draw(1000, {**left, 2: 0, 3: 0}, 0))[0] == (1, 300)
    reasons = {refusal.rule for refusal in steps.explain(steps.draw(1000, left, 0))}
    assert reasons == {"stack.class"}


def test_a_ladder_kept_too_long_still_minds_the_clock() -> None:
    steps = ladder({"effective_at_us": 10, "expires_at_us": 20})
    left = {1: 100, WALLET: 100}
    assert [len(steps.draw(5, left, now).legs) for now in (9, 10, 19, 20)] == [0, 1, 1, 0]


def test_quotas_cover_whole_calls_or_nothing() -> None:
    steps = ladder(
        {"unit": "TOK:small", "free_quota": True},
        {"unit": "REQ:small", "free_quota": True},
        {"unit": "REQ:large", "free_quota": True},
    )
    assert [refusal.rule for refusal in steps.refusals] == ["items.quota_class"]
    plan = steps.draw(1000, {1: 500, 2: 1}, 0, tokens=300)
    assert draws(plan) == [(2, 1)]
    assert plan.legs[0].covered_u == 1000
    plan = steps.draw(1000, {1: 500, 2: 0}, 0, tokens=300)
    assert draws(plan) == [(1, 300)]
    assert replay(plan, 400, tokens=120).legs[0].amount == 120
    plan = steps.draw(1000, {1: 299, 2: 0, WALLET: 5_000}, 0, tokens=300)
    assert (draws(plan), plan.self_u) == ([], 1000)


def test_a_progressive_scale_pays_each_bracket_its_ratio() -> None:
    # 50 % of the first 1,000, 35 % of the next 1,000, 20 % after: grants of 500, 350 and plenty.
    scale = [
        {"chain": "xihu", "bracket": n, "ratio_bp": ratio}
        for n, ratio in enumerate((5000, 3500, 2000))
    ]
    steps = ladder(*scale)
    whole = {1: 500, 2: 350, 3: 10_000, WALLET: 10_000}
    assert draws(steps.draw(800, whole, 0)) == [(1, 400)]
    # 2,500 = 1,000 at 50 % + 1,000 at 35 % + 500 at 20 %.
    assert draws(steps.draw(2_500, whole, 0)) == [(1, 500), (2, 350), (3, 100)]
    # 100 of spend is left in the first bracket: 50 + 35 % of the other 700 = 245.
    assert draws(steps.draw(800, {**whole, 1: 50}, 0)) == [(1, 50), (2, 245)]


def test_a_scale_stands_together_where_its_first_grant_would() -> None:
    steps = ladder(
        {"chain": "s", "bracket": 1, "ratio_bp": 2000, "item_specific": True},
        {"priority": 50},
        {"chain": "s", "bracket": 0, "ratio_bp": 5000},
        {"item_specific": True},
        {"chain": "s", "bracket": 0, "ratio_bp": 5000, "priority": 40, "item_specific": True},
    )
    assert [step.account_id for step in steps.steps] == [5, 3, 1, 2, 4]


def test_nobody_pays_between_the_grants_of_a_scale() -> None:
    # One organisation has two vouchers of a scale, the first for one provider alone; it pays first there, and
    # so does another programme's. Between the two that one would take half of what the second stands on.
    scale = {"chain": "s", "ratio_bp": 6000, "expires_at_us": 9}
    steps = ladder(
        scale | {"item_specific": True}, {"ratio_bp": 5000, "item_specific": True}, scale
    )
    rich = {1: 300, 2: 5_000, 3: 5_000, WALLET: 5_000}
    assert draws(steps.draw(2_000, rich, 0)) == [(1, 300), (3, 900), (2, 400)]
    plan = steps.draw(2_000, rich | {WALLET: 400}, 0)
    assert [replay(plan, actual).rounding_u for actual in range(2_001)] == [0] * 2_001


def test_a_scale_does_not_exclude_its_own_brackets() -> None:
    city = {"stacking": "better_of", "stack_class": "city"}
    scale = [
        {"chain": "s", "bracket": n, "ratio_bp": r, **city} for n, r in enumerate((5000, 2000))
    ]
    steps = ladder(*scale, {"ratio_bp": 4000, **city})
    left = {1: 100, 2: 9_000, 3: 9_000, WALLET: 9_000}
    # 200 at 50 %, 300 at 20 %; the flat 40 % is of the same class and stands back.
    assert draws(steps.draw(500, left, 0)) == [(1, 100), (2, 60)]
    # With the best bracket used up the scale still goes first: it is one programme.
    assert draws(steps.draw(500, {**left, 1: 0}, 0)) == [(2, 100)]


def test_reimbursed_later_is_paid_by_the_wallet_now() -> None:
    steps = ladder({"ratio_bp": 3000, "mode": "reimburse"}, {"ratio_bp": 2000})
    plan = steps.draw(1000, {1: 5_000, 2: 5_000, WALLET: 800}, 0)
    # Instant 20 % = 200; 30 % of the 800 paid = 240 is owed back; the wallet pays all 800.
    assert draws(plan) == [(2, 200), (1, 240)]
    assert [(leg.kind == REIMBURSE, leg.covered_u) for leg in plan.legs] == [
        (False, 200),
        (True, 0),
    ]
    assert (plan.self_u, plan.shortfall_u) == (800, 0)
    half = replay(plan, 500)
    assert [leg.amount for leg in half.legs] == [100, 120]
    assert half.self_u == 400


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fact", ["listing.self_owned", "listing.related_party"])
@pytest.mark.parametrize("value", [True, None])
def test_own_and_related_listings_get_no_subsidy_but_keep_the_free_quota(
    fact: str, value: bool | None
) -> None:
    steps = ladder({}, {"free_quota": True}, facts={**FACTS, fact: value})
    assert [step.account_id for step in steps.steps] == [2]
    assert steps.refusals[0].rule == fact.replace("listing", "anti_fraud")


def test_the_callers_wishes() -> None:
    assert [s.account_id for s in ladder({}, {}, programmes={"p2"}).steps] == [2]
    assert [s.account_id for s in ladder({}, {"free_quota": True}, vouchers=False).steps] == [2]
    no_wallet = ladder({"ratio_bp": 9000}, wallet_account_id=None)
    assert no_wallet.draw(100, {1: 1_000, WALLET: 1_000}, 0).shortfall_u == 10


def test_reasons_name_grant_and_rule() -> None:
    steps = ladder(
        {"expires_at_us": 5}, {"effective_at_us": 50}, {}, {"unit": "TOK:small", "free_quota": True}
    )
    plan = steps.draw(100, {4: 1, WALLET: 1_000}, 6, tokens=10)
    assert {(r.grant_id, r.rule) for r in steps.explain(plan)} == {
        ("grt_1", "grant.window"),
        ("grt_2", "grant.window"),
        ("grt_3", "grant.exhausted"),
        ("grt_4", "grant.tokens"),
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"unit": "USD"},
        {"unit": "TOK:x"},
        {"ratio_bp": 10_001},
        {"total_cap_bp": -1},
        {"stacking": "exclusive"},
    ],
)
def test_terms_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        ladder(bad)


# --- worked numbers ----------------------------------------------------------------------------------


def test_list_base_dips_and_the_slack_takes_it() -> None:
    # Two list grants of 3.24 %: ⌊649 x 0.0324⌋ = ⌊21.03⌋ = 21 each, the wallet pays 607;
    # ⌊648 x 0.0324⌋ = ⌊20.995⌋ = 20 each, the wallet pays 608: more for less.
    steps = ladder({"ratio_bp": 324, "base": "list"}, {"ratio_bp": 324, "base": "list"})
    left = {1: 9_000, 2: 9_000, WALLET: 9_000}
    held = steps.draw(649, left, 0)
    assert (draws(held), held.self_u, held.slack_u) == ([(1, 21), (2, 21)], 607, 2)
    done = replay(held, 648)
    assert ([leg.amount for leg in done.legs], done.self_u, done.rounding_u) == ([20, 20], 608, 0)
    # A wallet with nothing to spare still serves; the platform's rounding account takes the one.
    poor = steps.draw(649, {**left, WALLET: 607}, 0)
    done = replay(poor, 648)
    assert (poor.slack_u, done.self_u, done.rounding_u) == (0, 607, 1)


def test_the_total_cap_binds_all_who_pay_together() -> None:
    steps = ladder(
        {"ratio_bp": 5000, "total_cap_bp": 6000}, {"ratio_bp": 5000, "expires_at_us": 10**9}
    )
    # Voucher 2 expires first: 500, then 50 % of 500 = 250 but 60 % of 1,000 leaves room for 100.
    assert draws(steps.draw(1000, {1: 9_000, 2: 9_000, WALLET: 9_000}, 0)) == [(2, 500), (1, 100)]
    steps = ladder({"ratio_bp": 5000, "total_cap_bp": 6000, "priority": 1}, {"ratio_bp": 5000})
    # The cap holds for those who come after it too.
    assert draws(steps.draw(1000, {1: 9_000, 2: 9_000, WALLET: 9_000}, 0)) == [(1, 500), (2, 100)]
    # It is a cap on what is spent: a free quota is not spent.
    steps = ladder({"free_quota": True}, {"base": "list", "total_cap_bp": 6000})
    assert draws(steps.draw(1000, {1: 500, 2: 9_000, WALLET: 9_000}, 0)) == [(1, 500), (2, 300)]


def test_a_plan_that_was_tampered_with_is_not_replayed() -> None:
    plan = ladder({"ratio_bp": 5000}).draw(100, {1: 1_000, WALLET: 1_000}, 0)
    for text in (
        "",
        "{}",
        "[2]",
        plan.to_json().replace("50", "51", 1),
        plan.to_json().replace("[1", "[7", 1),
    ):
        with pytest.raises(LedgerCorrupt):
            Plan.from_json(text)
    short = ladder().draw(100, {WALLET: 99}, 0)
    assert short.shortfall_u == 1
    with pytest.raises(LedgerCorrupt, match="shortfall"):
        replay(short, 50)


# --- properties --------------------------------------------------------------------------------------

_plain = st.fixed_dictionaries(
    {
        "ratio_bp": st.one_of(
            st.integers(0, 10_000), st.sampled_from([1, 3333, 5000, 9_999, 10_000])
        ),
        "priority": st.integers(0, 2),
        "stack_class": st.sampled_from(["city", "district"]),
        "stacking": st.sampled_from(["stack", "stack", "exclusive", "better_of"]),
        "mode": st.sampled_from(["instant", "instant", "reimburse"]),
    }
)
_free = st.fixed_dictionaries(
    {"free_quota": st.just(True), "unit": st.sampled_from(["CNY", "TOK:small", "REQ:small"])}
)
_wild = st.fixed_dictionaries(
    {
        "ratio_bp": st.integers(0, 10_000),
        "base": st.sampled_from(["residual", "list"]),
        "total_cap_bp": st.one_of(st.just(10_000), st.integers(0, 10_000)),
        "chain": st.sampled_from(["", "", "scale", "slope"]),
        "bracket": st.integers(0, 3),
        "priority": st.integers(0, 2),
        "item_specific": st.booleans(),
    }
)
_scales = st.fixed_dictionaries(
    {
        name: st.lists(st.integers(0, 10_000), min_size=4, max_size=4).map(
            lambda ratios: sorted(ratios, reverse=True)
        )
        for name in ("scale", "slope")
    }
)
"""The ratios of their brackets: they fall, as a programme's must."""
_amounts = st.one_of(st.integers(0, 30), st.integers(0, 2_000))


def _available(amounts: list[int], wallet: int) -> dict[int, int]:
    return {**dict(enumerate(amounts, 1)), WALLET: wallet}


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.one_of(_plain, _plain, _free), max_size=4),
    st.lists(_amounts, min_size=4, max_size=4),
    st.integers(0, 1_500),
    st.integers(0, 1_500),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_a_smaller_actual_cost_always_fits_the_hold(
    grants: list[dict[str, Any]],
    amounts: list[int],
    estimate: int,
    less: int,
    tokens: int,
    fewer: int,
) -> None:
    steps = ladder(*grants)
    left = _available(amounts, 2_000)
    held = steps.draw(estimate, left, 0, tokens)
    assert held.shortfall_u == 0
    assert held.slack_u == 0
    assert held.covered_u == sum(leg.covered_u for leg in held.legs)
    assert all(leg.amount <= left[leg.account_id] for leg in held.legs)
    assert Plan.from_json(held.to_json()) == held._replace(skipped=())
    assert [leg.amount for leg in replay(held, estimate).legs] == [leg.amount for leg in held.legs]

    done = replay(held, max(0, estimate - less), min(tokens, fewer))
    assert done.rounding_u == done.overrun_u == 0
    assert done.self_u <= held.self_u
    assert sum(leg.covered_u for leg in done.legs) + done.self_u == done.cost_u
    for leg, hold in zip(done.legs, held.legs, strict=True):
        assert 0 <= leg.amount <= hold.amount


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_plain, max_size=4), st.lists(_amounts, min_size=4, max_size=4), st.integers(0, 1_500)
)
def test_raising_an_estimate_never_lowers_a_hold(
    grants: list[dict[str, Any]], amounts: list[int], estimate: int
) -> None:
    # Classes are left out: whether a grant pays less than one micro-yuan decides who closes its class.
    steps = ladder(*({**grant, "stacking": "stack"} for grant in grants))
    left = _available(amounts, 2_000)
    small, large = (dict(draws(steps.draw(cost, left, 0))) for cost in (estimate, estimate + 1))
    assert all(large.get(account, 0) - amount in (0, 1) for account, amount in small.items())
    assert steps.draw(estimate + 1, left, 0).self_u - steps.draw(estimate, left, 0).self_u in (0, 1)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(_wild, min_size=1, max_size=6),
    _scales,
    st.lists(_amounts, min_size=6, max_size=6),
    st.integers(0, 1_500),
    st.integers(0, 1_500),
    st.integers(0, 6),
)
def test_list_bases_caps_and_scales_miss_by_less_than_one_micro_yuan_a_step(
    grants: list[dict[str, Any]],
    scales: dict[str, list[int]],
    amounts: list[int],
    estimate: int,
    less: int,
    spare: int,
) -> None:
    for grant in grants:
        if grant["chain"]:
            grant["ratio_bp"] = scales[grant["chain"]][grant["bracket"]]
    steps = ladder(*grants)
    rich = steps.draw(estimate, _available(amounts, 5_000), 0)
    poor = steps.draw(estimate, _available(amounts, rich.self_u + spare), 0)
    actual = max(0, estimate - less)
    assert replay(rich, estimate).legs == rich.legs
    assert replay(rich, actual).rounding_u == 0
    done = replay(poor, actual)
    assert done.rounding_u <= max(0, len(rich.legs) - 1)
    assert sum(leg.covered_u for leg in done.legs) + done.self_u + done.rounding_u == actual
    assert all(
        0 <= leg.amount <= hold.amount for leg, hold in zip(done.legs, poor.legs, strict=True)
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(_plain, max_size=4), st.lists(_amounts, min_size=4, max_size=4), st.integers(0, 300)
)
def test_the_largest_affordable_cost(
    grants: list[dict[str, Any]], amounts: list[int], wallet: int
) -> None:
    steps = ladder(*grants)
    left = _available(amounts, wallet)
    best = steps.max_affordable_cost_u(left, 0)
    assert steps.draw(best, left, 0).shortfall_u == 0
    assert steps.draw(best + 1, left, 0).shortfall_u > 0
    assert steps.max_affordable_cost_u(left, 0, ceiling_u=best // 2) == best // 2


def test_an_overrun_is_the_platforms() -> None:
    plan = ladder({"ratio_bp": 5000}).draw(100, {1: 1_000, WALLET: 50}, 0)
    done = replay(plan, 130)
    assert (done.legs[0].amount, done.self_u, done.overrun_u) == (50, 50, 30)


def test_largest() -> None:
    assert largest(lambda n: n * n <= 50, 100) == 7
    assert largest(lambda n: True, 100) == 100
    assert largest(lambda n: False, 100) == -1
