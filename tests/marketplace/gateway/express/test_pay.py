"""The compiled price, plan and bill are Python's, to the micro-yuan and the byte."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pay_cases import (
    BOOKS,
    MOST_COST_U,
    NOW,
    PER_TOKEN,
    WALLET,
    Ask,
    hold_chance_together,
    hold_together,
    payer_of,
    terms_of,
)

from catalog.ground.units import MAX_U, WHOLE_BP
from marketplace.gateway.caps import NO_CAPS, Cap, KeyCaps
from marketplace.ledger.chart import Code
from marketplace.ledger.dialect import USAGE_COLUMNS
from marketplace.prices.components import Buckets, Components, OffPeak, Tier
from marketplace.vouchers.ladder import CAPPED, EXCLUDED, EXHAUSTED, NOT_IN_FORCE, Ladder, Step
from marketplace.vouchers.plan import CNY, FREE, INSTANT, LIST, REIMBURSE, REQ, RESIDUAL, TOK

core = pytest.importorskip("marketplace.gateway.express._core")

FREE_OF_CHARGE = Components(input_u_per_m=0, output_u_per_m=0)
CAPS = KeyCaps((Cap("key.daily_u", 70, 10**9, NOW), Cap("key.monthly_u", 71, 10**9, NOW)), 77)
USED_UP = 50
"""Where quotas and what is reimbursed go."""
_sinks = {10: USED_UP, 11: USED_UP}


def step(account: int = 10, ratio_bp: int = WHOLE_BP, **more: Any) -> Step:
    columns: dict[str, Any] = {
        "unit": CNY, "kind": INSTANT, "base": RESIDUAL, "cap_bp": WHOLE_BP, "chain": 0, "bit": 0,
        "takes": 0, "effective_at_us": 0, "expires_at_us": MAX_U, "grant_id": "", "programme": "",
    }  # fmt: skip
    return Step(account_id=account, ratio_bp=ratio_bp, **(columns | more))


def terms(
    *steps: Step,
    price: Components = PER_TOKEN,
    caps: KeyCaps = NO_CAPS,
    sinks: dict[int, int] | None = None,
    fee_bp: int = 0,
) -> SimpleNamespace:
    return terms_of(price, payer_of(Ladder(steps, (), WALLET), sinks), caps, fee_bp)


def ask(tokens: int, used: int, *closed: int, more: int = 0) -> Ask:
    """Ask for so many tokens of output and use some; all accounts but these are open."""
    there = frozenset({10, 11, 12, 13, 14, 70, 71, WALLET} - set(closed))
    limits = (0, tokens + more) if more else None
    return Ask(0, tokens, NOW, there, {}, Buckets(0, 0, 0, used, 0), limits)


def both(told: SimpleNamespace, asked: Ask) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the compiled plan and bill of a call, after comparing all of it with Python's."""
    lane = core.Terms(told, BOOKS)
    bill = hold_together(lane, told, asked)
    assert bill is not None
    bits = sum(1 << i for i, account in enumerate(lane.accounts()) if account in asked.open)
    return lane.draw(asked.input_tokens, asked.max_tokens, asked.began_us, bits), bill


# --- by hand -----------------------------------------------------------------------------------------


def test_a_voucher_and_the_wallet() -> None:
    plan, bill = both(terms(step(ratio_bp=3000), fee_bp=100), ask(1_000, 500))
    assert plan["legs"] == [(10, 300, 1), (WALLET, 700, 1)]
    assert bill["legs"] == [(10, 150, 1), (WALLET, 350, 1)]
    assert bill["entries"] == [(Code.ACCRUE, 1, 6, 495), (Code.FEE, 1, 5, 5)]
    assert (bill["voucher_u"], bill["wallet_u"], bill["free_u"]) == (150, 350, 0)


def test_a_free_listing_costs_nobody_anything() -> None:
    plan, bill = both(terms(step(), price=FREE_OF_CHARGE, caps=CAPS), ask(1_000, 500))
    assert (plan["cost_u"], plan["draws"], plan["skipped"]) == (0, [], [])
    # The key's windows are asked all the same, for nothing.
    assert plan["legs"] == bill["legs"] == [(70, 0, 77), (71, 0, 77)]
    assert bill["entries"] == []


def test_nothing_used_of_what_was_promised() -> None:
    _, bill = both(terms(step(ratio_bp=5000), caps=CAPS), ask(1_000, 0))
    assert bill["legs"] == [(10, 0, 1), (WALLET, 0, 1), (70, 0, 77), (71, 0, 77)]
    assert (bill["cost_u"], bill["entries"]) == (0, [])


def test_a_quota_of_requests_covers_the_whole_call() -> None:
    told = terms(step(unit=REQ, kind=FREE), caps=CAPS, sinks=_sinks, fee_bp=1_000)
    plan, bill = both(told, ask(1_000, 500))
    assert plan["legs"] == [(10, 1, USED_UP), (70, 0, 77), (71, 0, 77)]
    assert (bill["free_u"], bill["counted_u"], bill["wallet_u"]) == (500, 500, 0)
    assert bill["entries"] == [
        (Code.ACCRUE, 1, 6, 450),
        (Code.FEE, 1, 5, 50),
        (Code.FREE_COST, 4, 1, 500),
    ]


def test_a_quota_of_tokens_pays_those_that_were_used() -> None:
    _, bill = both(terms(step(unit=TOK, kind=FREE), sinks=_sinks), ask(1_000, 400))
    assert bill["legs"] == [(10, 400, USED_UP)]
    # Where it has no reserve, it may have too few: then it is not a step that was seen.
    told = terms(step(unit=TOK, kind=FREE), sinks=_sinks)
    plan, _ = both(told, ask(1_000, 400, 10))
    assert plan["skipped"] == [(0, EXHAUSTED)]
    assert plan["legs"] == [(WALLET, 1_000, 1)]
    lane = core.Terms(told, BOOKS)
    lane.draw(0, 1_000, NOW, 0b10)
    assert not lane.saw_all(0b10, [0, 0], NOW)
    assert not lane.saw_all(0b10, [NOW - 1, NOW], NOW)
    assert lane.saw_all(0b10, [NOW, 0], NOW)


def test_what_is_reimbursed_later_is_paid_by_the_wallet_now() -> None:
    told = terms(step(ratio_bp=2000), step(11, 3000, kind=REIMBURSE), sinks={11: USED_UP})
    plan, bill = both(told, ask(1_000, 500))
    assert plan["legs"] == [(10, 200, 1), (11, 240, USED_UP), (WALLET, 800, 1)]
    assert bill["legs"] == [(10, 100, 1), (11, 120, USED_UP), (WALLET, 400, 1)]
    assert (bill["voucher_u"], bill["wallet_u"]) == (100, 400)


def test_list_bases_dip_and_the_slack_takes_it() -> None:
    told = terms(step(ratio_bp=324, base=LIST), step(11, 324, base=LIST))
    plan, bill = both(told, ask(649, 648))
    assert (plan["self_u"], plan["slack_u"]) == (607, 2)
    assert (bill["legs"][-1], bill["rounding_u"]) == ((WALLET, 608, 1), 0)


def test_without_slack_the_platform_rounds() -> None:
    # Two list bases of half each leave the wallet nothing, nor a reserve to take slack from.
    told = terms(step(ratio_bp=5000, base=LIST), step(11, 5000, base=LIST))
    plan, bill = both(told, ask(1_000, 999, WALLET))
    assert (plan["self_u"], plan["slack_u"], plan["shortfall_u"]) == (0, 0, 0)
    assert (bill["rounding_u"], bill["wallet_u"]) == (1, 0)
    assert (Code.ROUNDING, 3, 1, 1) in bill["entries"]
    lane = core.Terms(told, BOOKS)
    lane.draw(0, 1_000, NOW, 0b011)
    assert not lane.saw_all(0b011, [0, 0, 0], NOW)  # it is not known what the wallet has
    assert lane.saw_all(0b111, [0, 0, 0], NOW)


def test_a_bracket_that_pays_all_leaves_nothing_for_the_next() -> None:
    told = terms(step(ratio_bp=5000, chain=1), step(11, 3500, chain=1))
    plan, bill = both(told, ask(800, 700))
    assert plan["skipped"] == [(1, CAPPED)]
    assert bill["legs"] == [(10, 350, 1), (WALLET, 350, 1)]


def test_two_scales_side_by_side() -> None:
    told = terms(step(ratio_bp=5000, chain=1), step(11, 2000, chain=2), step(12, 9000, chain=1))
    plan, _ = both(told, ask(1_000, 999))
    assert [leg[:2] for leg in plan["legs"]] == [(10, 500), (11, 100), (12, 360), (WALLET, 40 + 3)]


def test_a_scale_that_adds_nothing_does_not_end_another() -> None:
    # Were the third to begin anew, settling, which never sees the second, would leave 350 to the platform.
    told = terms(step(10, 3000, chain=1), step(11, 0, chain=2), step(12, 5000, chain=1))
    plan, bill = both(told, ask(1_000, 1_000))
    assert plan["skipped"] == [(1, CAPPED), (2, CAPPED)]
    assert [leg[1] for leg in plan["legs"]] == [300, 700 + 1]
    assert ([leg[1] for leg in bill["legs"]], bill["rounding_u"]) == ([300, 700], 0)
    told = terms(step(ratio_bp=1, chain=1), step(11, 0, chain=2), step(12, chain=1))
    plan, bill = both(told, ask(19_999, 19_999))
    assert [leg[1] for leg in plan["legs"]] == [1, 19_998 + 1]
    assert ([leg[1] for leg in bill["legs"]], bill["rounding_u"]) == ([1, 19_998], 0)


def test_a_bracket_that_a_cap_cuts_leaves_no_rest() -> None:
    # The first wants 333 of 1,000, has more, and may pay 300.
    told = terms(
        step(10, 3333, kind=FREE, chain=1, cap_bp=3000),
        step(11, 0, chain=2),
        step(12, 3333, chain=1),
    )
    plan, bill = both(told, ask(1_000, 1_000))
    assert [draw[2] for draw in plan["draws"]] == [300]
    assert ([leg[1] for leg in bill["legs"]], bill["rounding_u"]) == ([300, 700], 0)
    lane = core.Terms(told, BOOKS)
    for used in range(0, 1_001, 7):
        hold_together(lane, told, ask(1_000, used))


def test_a_bracket_that_adds_nothing_ends_its_own_scale() -> None:
    # A tenth of nine is nothing; the half is for what the tenth's grant no longer reaches.
    told = terms(step(10, 1000, chain=1), step(11, 2000, chain=2), step(12, 5000, chain=1))
    plan, _ = both(told, ask(9, 9))
    assert [leg[:2] for leg in plan["legs"]] == [(11, 1), (WALLET, 8 + 1)]
    assert plan["skipped"] == [(0, CAPPED), (2, CAPPED)]


def test_no_leg_pays_less_than_nothing() -> None:
    # What the first two pay rounds differently from the cap of the third, which is passed before it comes.
    told = terms(step(ratio_bp=9412), step(11, 4351), step(12, 5000, base=LIST, cap_bp=9667))
    _, bill = both(told, ask(1_228, 391))
    assert [leg[1] for leg in bill["legs"]] == [368, 10, 0, 13]


def test_windows_and_classes() -> None:
    told = terms(
        step(10, expires_at_us=NOW),
        step(11, 1000, bit=1, takes=1),
        step(12, 1000, bit=1),
        step(13, 1000, effective_at_us=NOW + 1),
        step(14, 1000, bit=2),
    )
    plan, _ = both(told, ask(1_000, 10))
    assert plan["skipped"] == [(0, NOT_IN_FORCE), (2, EXCLUDED), (3, NOT_IN_FORCE)]
    # A ladder that is younger than the call counts from when it was built.
    told.payer = replace(told.payer, built_at_us=NOW + 1)
    plan, _ = both(told, ask(1_000, 10))
    assert plan["skipped"] == [(0, NOT_IN_FORCE), (2, EXCLUDED)]


def test_a_total_cap_binds_those_who_come_after() -> None:
    told = terms(step(ratio_bp=5000, cap_bp=6000), step(11, 5000), step(12, 5000))
    plan, _ = both(told, ask(1_000, 999))
    assert [draw[2] for draw in plan["draws"]] == [500, 100]
    assert plan["skipped"] == [(2, CAPPED)]


def test_a_wallet_without_a_reserve_is_short() -> None:
    told = terms(step(ratio_bp=5000))
    lane = core.Terms(told, BOOKS)
    assert hold_together(lane, told, ask(1_000, 10, WALLET)) is None
    assert lane.draw(0, 1_000, NOW, 0b01)["shortfall_u"] == 500


def test_an_overrun_is_the_platforms() -> None:
    plan, bill = both(terms(step(ratio_bp=5000)), ask(100, 130, more=100))
    assert (plan["cost_u"], bill["cost_u"], bill["overrun_u"]) == (100, 130, 30)
    assert (Code.OVERRUN, 2, 1, 30) in bill["entries"]


def test_usage_above_the_hold_is_pythons_to_cut() -> None:
    told = terms()
    assert hold_together(core.Terms(told, BOOKS), told, ask(100, 101)) is None


def test_caps_count_what_vouchers_and_wallet_pay() -> None:
    told = terms(step(ratio_bp=1000, kind=FREE), step(11, 5000), caps=CAPS, sinks={})
    plan, bill = both(told, ask(1_000, 500))
    assert plan["legs"][-2:] == [(70, 900, 77), (71, 900, 77)]
    assert bill["legs"][-2:] == [(70, 450, 77), (71, 450, 77)]
    assert core.Terms(told, BOOKS).accounts() == [10, 11, WALLET, 70, 71]


def test_what_is_too_large_to_reckon_with_is_only_a_shortfall() -> None:
    dear = Components(input_u_per_m=10**12, output_u_per_m=10**12)
    told = terms(step(), price=dear)
    lane = core.Terms(told, BOOKS)
    assert hold_together(lane, told, ask(922_337_203, 922_337_203)) is not None
    assert hold_together(lane, told, ask(922_337_204, 5)) is None
    told = terms(step(), price=Components(10**12, 10**12, request_u=MOST_COST_U % 10**6))
    plan, _ = both(told, ask(922_337_203, 922_337_203))
    assert plan["cost_u"] == MOST_COST_U
    assert lane.draw(-1, 5, NOW, 0b11)["shortfall_u"] == MAX_U
    assert lane.draw(5, 1 << 62, NOW, 0b11)["shortfall_u"] == MAX_U


def test_the_row_names_every_column() -> None:
    told = terms()
    told.record = replace(told.record, components_text='{"input_u_per_m":1,"名":"“”"}')
    lane = core.Terms(told, BOOKS)
    assert hold_together(lane, told, ask(100, 50)) is not None
    row = lane.usage_row(
        id="gen_2", raw_usage="{}", request_sha256="cd", source="engine", outcome="cancelled",
        why="retry:timeout>only", began_us=5, first_token_us=7, ended_us=9, streamed=True,
    )  # fmt: skip
    columns = dict(zip(USAGE_COLUMNS, row, strict=True))
    assert columns["route"] == '{"endpoint":"ept_1","why":"retry:timeout>only"}'
    assert (columns["streamed"], columns["output"], columns["cost_u"]) == (1, 50, 50)


def test_nothing_is_told_before_it_is_settled() -> None:
    with pytest.raises(RuntimeError):
        core.Terms(terms(), BOOKS).cost_headers()


# --- what the lane must not serve --------------------------------------------------------------------


def _with(part: str, **fields: Any) -> SimpleNamespace:
    told = terms(step(), caps=CAPS)
    return SimpleNamespace(**{**vars(told), part: replace(getattr(told, part), **fields)})


def _ladder(*steps: Step, wallet: int | None = WALLET) -> dict[str, Ladder]:
    return {"ladder": Ladder(steps, (), wallet)}


def test_what_is_refused_below_is_otherwise_in_order() -> None:
    core.Terms(_with("record", fee_bp=WHOLE_BP), BOOKS)
    core.Terms(_with("payer", **_ladder(step(chain=63, bit=2**63 - 1))), BOOKS)


@pytest.mark.parametrize(
    "strange",
    [
        _with("record", fee_bp=WHOLE_BP + 1),
        _with("record", owner_account_id=-1),
        _with("record", owner_account_id=2**63),
        _with("record", owner_account_id=True),
        _with("record", components_text="\ud800"),
        _with("record", components_text=None),
        _with("record", components=Components(10**12 + 1, 0)),
        _with("record", components=Components(0, -1)),
        _with("record", components=Components(0, 0, reasoning_u_per_m=-1)),
        _with("record", components=Components(0, 0, request_u=2**70)),
        _with("record", components=Components(0, 0, tiers=(Tier(5, 0, 0), Tier(5, 0, 0)))),
        _with("record", components=Components(0, 0, tiers=[Tier(5, 0, 0)])),  # type: ignore[arg-type]
        *(
            _with("record", components=Components(0, 0, off_peak=(window,)))
            for window in (
                OffPeak("24:00", "01:00", 5),
                OffPeak("23:60", "01:00", 5),
                OffPeak("1:000", "01:00", 5),
                OffPeak("", "01:00", 5),
                OffPeak("00:00", "01:00", WHOLE_BP + 1),
            )
        ),
        *(
            _with("payer", **_ladder(strange))
            for strange in (
                step(unit=3),
                step(kind=3),
                step(base=2),
                step(chain=-1),
                step(chain=64),
                step(ratio_bp=WHOLE_BP + 1),
                step(cap_bp=-1),
                step(bit=2**63),
                step(takes=-1),
                step(expires_at_us=2**63),
                step(account=12),  # not among those that may pay
            )
        ),
        _with("payer", **_ladder(wallet=None)),
        _with("payer", **_ladder(wallet=98)),
        _with("payer", accounts=tuple(range(100))),
        _with("payer", accounts=(10, WALLET, "11")),
        _with("payer", sinks={10: -1}),
        _with("payer", sinks=None),
        _with("payer", built_at_us=0.5),
        SimpleNamespace(**{**vars(terms()), "caps": KeyCaps(sink_id=-1)}),
        SimpleNamespace(**{**vars(terms()), "endpoint": SimpleNamespace(id='a"b')}),
    ],
)
def test_what_is_stranger_than_the_rules_is_left_to_python(strange: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="must not serve"):
        core.Terms(strange, BOOKS)


def test_sixty_four_accounts_are_the_most() -> None:
    many = [step(account, 100) for account in range(100, 163)]
    told = terms(*many)
    lane = core.Terms(told, BOOKS)
    there = frozenset({*range(100, 163, 2), WALLET})
    asked = Ask(50_000, 10_000, NOW, there, {}, Buckets(0, 9_000, 0, 500, 0))
    assert hold_together(lane, told, asked) is not None
    told.caps = CAPS
    with pytest.raises(ValueError, match="must not serve"):
        core.Terms(told, BOOKS)


def test_what_cannot_be_read_says_why() -> None:
    with pytest.raises(AttributeError):
        core.Terms(SimpleNamespace(), BOOKS)
    with pytest.raises(AttributeError):
        core.Terms(terms(), SimpleNamespace())
    with pytest.raises(TypeError):
        core.Terms(terms())


def test_terms_keep_what_they_look_into_and_nothing_longer() -> None:
    told = terms()
    told.record = replace(told.record, components_text="".join(["{", "}" * 3]))
    text = told.record.components_text
    before = sys.getrefcount(text)
    lanes = [core.Terms(told, BOOKS) for _ in range(100)]
    assert sys.getrefcount(text) == before + 100
    assert all(hold_together(lane, told, ask(100, 50)) for lane in lanes)
    del lanes
    assert sys.getrefcount(text) == before


# --- by chance ---------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_call_is_priced_planned_and_billed_alike(chance: random.Random) -> None:
    hold_chance_together(core.Terms, chance, asks=2)


def test_thousands_of_calls_are_alike() -> None:
    chance = random.Random(64)
    billed = sum(hold_chance_together(core.Terms, chance) for _ in range(2_000))
    assert billed > 4_000
