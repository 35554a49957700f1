"""Refunds go back to where the money came from, and leave every ratio as it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest
from marketplace.vouchers.refund import refund
from marketplace.vouchers.waterfall import GrantTerms, Plan, build_ladder, replay

FACTS = {
    "listing.self_owned": False,
    "listing.related_party": False,
    "listing.quota_class": "small",
}


def plan_of(grants: list[dict[str, Any]], cost_u: int, each: int = 400) -> Plan:
    terms = [
        GrantTerms(**{"grant_id": f"grt_{i}", "account_id": i, "programme": f"p{i}@1", **grant})
        for i, grant in enumerate(grants, 1)
    ]
    available = {0: 5_000, **dict.fromkeys(range(1, 9), each)}
    return build_ladder(terms, FACTS, wallet_account_id=0, at_us=0).draw(cost_u, available, 0, 9)


def test_a_voucher_of_thirty_percent_gets_thirty_percent_back() -> None:
    plan = plan_of([{"ratio_bp": 3000}], 1_000)
    back = refund(plan, replay(plan, 1_000), 400)
    assert ([leg.amount for leg in back.legs], back.self_u) == ([120], 280)
    rest = refund(plan, back.after, 600)
    assert ([leg.amount for leg in rest.legs], rest.self_u, rest.after.cost_u) == ([180], 420, 0)


def test_a_quota_comes_back_only_whole() -> None:
    plan = plan_of([{"unit": "REQ:small", "free_quota": True}], 1_000)
    half = refund(plan, replay(plan, 1_000), 500)
    assert [(leg.amount, leg.covered_u) for leg in half.legs] == [(0, 500)]
    assert [(leg.amount, leg.covered_u) for leg in refund(plan, half.after, 500).legs] == [(1, 500)]


def test_what_is_reimbursed_later_shrinks_with_the_refund() -> None:
    plan = plan_of([{"ratio_bp": 3000, "mode": "reimburse"}], 1_000)
    back = refund(plan, replay(plan, 1_000), 500)
    assert ([leg.amount for leg in back.legs], back.self_u) == ([150], 500)


def test_the_platforms_part_is_not_given_to_anybody() -> None:
    plan = plan_of([{"ratio_bp": 5000}], 100)
    back = refund(plan, replay(plan, 130), 30)
    assert (back.overrun_u, back.self_u, back.legs[0].amount) == (30, 0, 0)


@pytest.mark.parametrize("refund_u", [-1, 101])
def test_more_than_was_paid_is_refused(refund_u: int) -> None:
    plan = plan_of([], 100)
    with pytest.raises(BadRequest, match="between 0 and the 100"):
        refund(plan, replay(plan, 100), refund_u)


_grant = st.one_of(
    st.fixed_dictionaries(
        {
            "ratio_bp": st.integers(0, 10_000),
            "mode": st.sampled_from(["instant", "instant", "reimburse"]),
            "base": st.sampled_from(["residual", "residual", "list"]),
            "total_cap_bp": st.sampled_from([10_000, 10_000, 7_000]),
        }
    ),
    st.fixed_dictionaries(
        {"free_quota": st.just(True), "unit": st.sampled_from(["CNY", "TOK:small", "REQ:small"])}
    ),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_grant, max_size=4),
    st.integers(0, 900),
    st.integers(0, 950),
    st.lists(st.integers(0, 400), max_size=4),
    st.integers(0, 400),
)
def test_no_sequence_of_refunds_pays_out_more_than_was_paid(
    grants: list[dict[str, Any]], estimate: int, actual: int, refunds: list[int], each: int
) -> None:
    plan = plan_of(grants, estimate, each)
    paid = now = replay(plan, actual)
    given_u = wallet_u = 0
    plain = all(g.get("base") != "list" and g.get("total_cap_bp", 10_000) == 10_000 for g in grants)
    for amount_u in refunds:
        amount_u = min(amount_u, now.cost_u)
        back = refund(plan, now, amount_u)
        covered = sum(leg.covered_u for leg in back.legs)
        assert covered + back.self_u + back.rounding_u + back.overrun_u == amount_u
        assert back.self_u >= 0
        assert all(leg.amount >= 0 for leg in back.legs)
        given_u, wallet_u, now = given_u + amount_u, wallet_u + back.self_u, back.after
        if plain:
            # As if it had cost that much from the start.
            fresh = replay(plan, min(now.cost_u, actual - now.overrun_u))
            assert [leg.amount for leg in now.legs] == [leg.amount for leg in fresh.legs]
            assert now.rounding_u == 0
    assert now.cost_u == actual - given_u
    assert wallet_u <= paid.self_u
    assert now.rounding_u <= len(grants)
