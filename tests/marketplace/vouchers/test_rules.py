"""Programmes as data: what is refused when they are written, and how conditions, windows and caps read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.ground.errors import BadRequest
from marketplace.vouchers.caps import Against, Counted, contract_grant_u, period_key, size
from marketplace.vouchers.facts import DatedFact, facts_at
from marketplace.vouchers.predicates import compile_check
from marketplace.vouchers.rules import Issued, Programme, load
from marketplace.vouchers.split import FunderSplit

DAY = 86_400_000_000


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "code": "demo",
        "version": 1,
        "title_zh": "示例",
        "title_en": "Demo",
        "kind": "token",
        "mode": "instant",
        "claimant": "platform",
        "funders": [
            {"funder": "gd", "level": "province", "share_bp": 5000},
            {"funder": "sz", "level": "city", "share_bp": 3000},
            {"funder": "nanshan", "level": "district", "share_bp": 2000},
        ],
        "budget": {"total_u": 10**12},
        "subsidy": {"ratio_bp": 5000},
        "stacking": {"stack_class": "city-token"},
    }
    return {key: value for key, value in (base | changes).items() if value is not ...}


def programme(**changes: Any) -> Programme:
    return load(json.dumps(document(**changes), ensure_ascii=False))


# --- a version is its bytes --------------------------------------------------------------------------


def test_order_and_spacing_do_not_change_the_hash_and_everything_else_does() -> None:
    plain = document()
    one = load(json.dumps(plain, indent=4))
    two = load(json.dumps(dict(reversed(plain.items())), ensure_ascii=False))
    assert one.sha256 == two.sha256
    assert load(one.canonical).canonical == one.canonical
    assert programme(version=2).sha256 != one.sha256
    # A field left out and the same field at its default are two texts: the bytes that were published count.
    assert programme(on_funder_exhausted="stop").sha256 != one.sha256


def test_the_version_cannot_be_edited() -> None:
    with pytest.raises(Exception, match="frozen"):
        programme().rules.subsidy.ratio_bp = 9_999  # type: ignore[misc]


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"capz": []}, "programme.schema", "capz"),
        ({"version": "1"}, "programme.schema", "version"),
        ({"mode": ...}, "programme.schema", "mode"),
        ({"code": "Not A Code"}, "programme.schema", "code"),
        ({"budget": {"total_u": 1e12}}, "programme.number", "whole number"),
        ({"budget": {"total_u": 10**19}}, "programme.schema", "budget.total_u"),
        (
            {"funders": [{"funder": "a", "level": "city", "share_bp": 9_999}]},
            "programme.share_bp",
            "9999",
        ),
        (
            {"funders": [{"funder": "a", "level": "city", "share_bp": 5_000}] * 2},
            "programme.funder",
            "twice",
        ),
        (
            {
                "funders": [{"funder": "a", "level": "city", "share_bp": 10_000}],
                "on_funder_exhausted": "rescale",
            },
            "programme.on_funder_exhausted",
            "single funder",
        ),
        ({"budget": {"total_u": 5, "tranche_u": 6}}, "programme.tranche", "tranche"),
        ({"window": {"use": ["2026-02-30", None]}}, "programme.window", "2026-02-30"),
        ({"window": {"use": ["2026-02-02", "2026-02-01"]}}, "programme.window", "before it begins"),
        ({"subsidy": {}}, "programme.ratio", "not clear"),
        ({"subsidy": {"ratio_bp": 1, "tiers": [{"ratio_bp": 2}]}}, "programme.ratio", "not clear"),
        (
            {
                "subsidy": {
                    "tiers": [{"ratio_bp": 1}, {"ratio_bp": 2, "when": {"org.is_opc": True}}]
                }
            },
            "programme.tiers",
            "never reached",
        ),
        (
            {"subsidy": {"upto": [{"spend_u": 9, "ratio_bp": 5}, {"spend_u": 9, "ratio_bp": 4}]}},
            "programme.upto",
            "do not rise",
        ),
        (
            {
                "subsidy": {
                    "upto": [{"spend_u": 9, "ratio_bp": 4}, {"spend_u": None, "ratio_bp": 5}]
                }
            },
            "programme.upto",
            "falling",
        ),
        ({"caps": [{"per": "group", "amount_u": 1}]}, "programme.cap", "names its group"),
        (
            {"caps": [{"per": "funder_org", "funder": "bj", "amount_u": 1}]},
            "programme.cap",
            "does not fund",
        ),
        ({"kind": "free_quota"}, "programme.quota", "quota"),
        ({"anti_fraud": {"one_voucher_per": "contract"}}, "programme.evidence", "contract"),
        (
            {"anti_fraud": {"one_claimant_per_contract": True}},
            "programme.claimant",
            "two who might",
        ),
        (
            {"eligible": [{"id": "a", "when": {"org.is_opc": True}, "text": ""}] * 2},
            "programme.rule_id",
            "'a'",
        ),
        (
            {"eligible": [{"id": "a", "when": {"org.is_ocp": True}, "text": ""}]},
            "predicate.fact",
            "org.is_opc",
        ),
    ],
)
def test_a_programme_that_does_not_fit_together(
    changes: dict[str, Any], rule: str, words: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        programme(**changes)
    assert caught.value.rule == rule
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[" * 100_000, '{"code":"a","code":"b"}', '"\\ud800"', b"\xff"]
)
def test_what_is_not_a_document(text: str | bytes) -> None:
    with pytest.raises(BadRequest):
        load(text)


@pytest.mark.parametrize(
    "condition",
    [
        {},
        [],
        "org.is_opc",
        {"org.is_opc": True, "org.size": "micro"},
        {"all": []},
        {"any": {"org.is_opc": True}},
        {"org.is_opc": 1},
        {"org.is_opc": "yes"},
        {"org.size": {"like": "m%"}},
        {"org.size": {"in": "micro"}},
        {"org.size": {"in": []}},
        {"org.incubators": "park"},
        {"provider.pflops": {">=": "300"}},
        {"provider.pflops": {">=": True}},
        {"contract.signed_on": {">=": "2026-13-01"}},
        {"org.region": {"under": "440"}},
        {"__import__": "os"},
        {"not": [{"org.is_opc": True}]},
    ],
)
def test_the_language_is_closed(condition: Any) -> None:
    with pytest.raises(BadRequest):
        compile_check(condition)


def test_conditions_cannot_be_nested_without_end() -> None:
    condition: dict[str, Any] = {"org.is_opc": True}
    for _ in range(9):
        condition = {"not": condition}
    with pytest.raises(BadRequest, match="8 levels"):
        compile_check(condition)


# --- three-valued logic ------------------------------------------------------------------------------

_flags = ["org.is_opc", "org.is_startup", "org.legal_person"]
_conditions = st.recursive(
    st.sampled_from([{flag: True} for flag in _flags]),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=6,
).filter(lambda condition: str(condition).count("{") <= 8)


@given(_conditions, st.fixed_dictionaries({}, optional=dict.fromkeys(_flags, st.booleans())))
def test_learning_more_never_turns_a_verdict(
    condition: dict[str, Any], facts: dict[str, bool]
) -> None:
    """Kleene's logic: what is decided with some facts unknown stays decided whatever they turn out to be."""
    check = compile_check(condition)
    verdict = check(facts)
    for unknown in [flag for flag in _flags if flag not in facts]:
        for value in (True, False):
            assert verdict in (None, check({**facts, unknown: value}))
    if len(facts) == len(_flags):
        assert verdict is not None
        assert compile_check({"not": condition})(facts) is not verdict


def test_what_decides_decides_whatever_else_is_unknown() -> None:
    known, unknown = {"org.is_opc": True}, {"org.is_startup": True}
    facts = {"org.is_opc": True}
    assert compile_check({"any": [unknown, known]})(facts) is True
    assert compile_check({"all": [unknown, {"not": known}]})(facts) is False
    assert compile_check({"all": [unknown, known]})(facts) is None
    assert compile_check({"any": [unknown, {"not": known}]})(facts) is None


def test_comparisons() -> None:
    facts = {
        "org.region": "440305",
        "org.size": "micro",
        "provider.pflops": 300,
        "contract.signed_on": "2026-01-31",
        "org.incubators": frozenset({"park"}),
    }
    for condition, verdict in [
        ({"org.region": {"under": "4403"}}, True),
        ({"org.region": {"under": "45"}}, False),
        ({"org.region": "440305"}, True),
        ({"org.size": {"in": ["micro", "small"]}}, True),
        ({"provider.pflops": {">=": 301}}, False),
        ({"contract.signed_on": {"<=": "2026-01-31"}}, True),
        ({"org.incubators": {"has": "park"}}, True),
        ({"org.incubators": {"has": "bark"}}, False),
        ({"org.is_opc": True}, None),
    ]:
        assert compile_check(condition)(facts) is verdict


def test_dated_facts() -> None:
    dated = [
        DatedFact("org.size", "small", 50),
        DatedFact("org.size", "micro", 0),
        DatedFact("org.is_startup", True, 0, 100),
        DatedFact("org.incubators", frozenset({"a"}), 0),
        DatedFact("org.incubators", frozenset({"b"}), 10, 20),
    ]
    assert facts_at(dated, 10) == {
        "org.size": "micro",
        "org.is_startup": True,
        "org.incubators": frozenset({"a", "b"}),
    }
    assert facts_at(dated, 100) == {"org.size": "small", "org.incubators": frozenset({"a"})}


# --- windows, caps, sizes ----------------------------------------------------------------------------


def test_a_grant_lives_inside_the_use_window() -> None:
    p = programme(window={"use": ["2026-01-01", "2026-01-31"], "grant_ttl_days": 10})
    # 2026-01-01 in Beijing begins at 2025-12-31T16:00Z = 1,767,196,800 s.
    start = 1_767_196_800_000_000
    assert p.expiry_us(start) == start + 10 * DAY
    assert p.expiry_us(start + DAY - 1) == start + 10 * DAY
    assert p.expiry_us(start + 28 * DAY) == start + 31 * DAY
    terms = p.terms(Issued("grt_1", 1, 0, 2**62))
    assert (terms.effective_at_us, terms.expires_at_us) == (start, start + 31 * DAY)


def test_periods_are_counted_in_beijing() -> None:
    last = 1_767_196_800_000_000 - 1
    periods = ("calendar_year", "month", "day", "programme")
    assert [period_key(period, last) for period in periods] == ["2025", "2025-12", "2025-12-31", ""]
    assert [period_key(period, last + 1) for period in periods] == [
        "2026",
        "2026-01",
        "2026-01-01",
        "",
    ]


@pytest.mark.parametrize(
    ("basis", "room"),
    # 1,000 less 700 issued; less 150 used and 250 open; less the larger of the two.
    [("issued", 300), ("used", 600), ("issued_or_used", 300)],
)
def test_what_counts_against_a_cap(basis: str, room: int) -> None:
    p = programme(caps=[{"per": "org", "amount_u": 1000, "basis": basis}])
    counted = {"demo/org/org_1/2026": Counted(issued_u=700, used_u=150, open_u=250)}
    pools = {"gd": 10**9, "sz": 10**9, "nanshan": 10**9}
    at_us = 1_780_000_000_000_000
    got = size(p, 5000, {}, Against("org_1"), at_us, counted, pools)
    assert (got.amount_u, [refusal.rule for refusal in got.bound_by]) == (room, ["caps.org"])
    assert size(p, room, {}, Against("org_1"), at_us, counted, pools).bound_by == ()


@given(st.integers(0, 3000), st.integers(0, 60_000))
def test_a_cap_on_one_funders_part_is_never_passed(limit: int, requested: int) -> None:
    p = programme(caps=[{"per": "funder_org", "funder": "nanshan", "amount_u": limit}])
    pools = {"gd": 10**9, "sz": 10**9, "nanshan": 10**9}
    amount = size(p, requested, {}, Against("org_1"), 10**15, {}, pools).amount_u
    split = FunderSplit([(0, p.shares)])
    part = dict(zip(split.funders, split.drawn(amount), strict=True))["nanshan"]
    assert part <= limit
    # And nothing is left unused for no reason: 5 micro-yuan more would need one more of nanshan's 20 %.
    assert amount == requested or amount == limit * 5


@given(st.integers(0, 5000), st.integers(0, 20_000))
def test_no_grant_is_larger_than_its_funders_can_back(left: int, requested: int) -> None:
    p = programme()
    pools = {"gd": left, "sz": 10**9, "nanshan": 10**9}
    amount = size(p, requested, {}, Against("org_1"), 10**15, {}, pools).amount_u
    assert FunderSplit([(0, p.shares)]).drawn(amount)[0] <= left
    assert (
        size(
            programme(on_funder_exhausted="rescale"), 77, {}, Against("o"), 10**15, {}, {}
        ).amount_u
        == 77
    )


def test_a_scale_is_issued_as_one_grant_a_bracket() -> None:
    p = programme(
        subsidy={
            "upto": [
                {"spend_u": 1000, "ratio_bp": 5000},
                {"spend_u": 3000, "ratio_bp": 2500},
                {"spend_u": None, "ratio_bp": 1000},
            ]
        }
    )
    # 1,000 at 50 % = 500; 2,000 at 25 % = 500; the rest at 10 %.
    assert p.brackets(400) == ((0, 5000, 400),)
    assert p.brackets(1_100) == ((0, 5000, 500), (1, 2500, 500), (2, 1000, 100))
    assert contract_grant_u(p, 4_000, {}) == 500 + 500 + 100
    assert contract_grant_u(p, 1_500, {}) == 500 + 125
