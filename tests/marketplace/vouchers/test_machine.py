"""A small world of grants, wallets and calls, kept by hand, against the pure parts of the vouchers.

The world books what `size`, `build_ladder`, `draw`, `replay` and the funder split tell it to,
in plain dictionaries, and knows from `expected_draws` (the published order, written as naively as can
be) what they should have told it. Balances and caps are small and grants exist from the start, or the
machine would never reach an exhausted grant, a full cap or an empty pool.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marketplace.vouchers.caps import Against, Counted, cap_keys, size
from marketplace.vouchers.plan import Plan, Settlement
from marketplace.vouchers.rules import Issued, Programme, load
from marketplace.vouchers.split import FunderSplit
from marketplace.vouchers.waterfall import build_ladder, replay

DAY = 86_400_000_000
START = 1_780_000_000_000_000
"""In May 2026: the machine never leaves the year of its caps."""
ORGS = ("org_a", "org_b")
RELATED = {("org_a", "own"), ("org_b", "related")}
WALLETS = {"org_a": 1, "org_b": 2}


def document(code: str, ratio: int, **changes: Any) -> Programme:
    funders = [("gd", "province", 5000), ("sz", "city", 3000), ("nanshan", "district", 2000)]
    base: dict[str, Any] = {
        "code": code,
        "version": 1,
        "title_zh": code,
        "title_en": code,
        "kind": "token",
        "mode": "instant",
        "claimant": "platform",
        "funders": [{"funder": f, "level": lv, "share_bp": bp} for f, lv, bp in funders],
        "budget": {"total_u": 400},
        "window": {"grant_ttl_days": 3},
        "subsidy": {"ratio_bp": ratio},
        "stacking": {"stack_class": code},
    }
    return load(json.dumps(base | changes))


def stack(name: str, how: str, priority: int = 100) -> dict[str, Any]:
    return {"stack_class": name, "rule": how, "priority": priority}


PROGRAMMES = {
    programme.rules.code: programme
    for programme in (
        document(
            "city",
            5000,
            stacking=stack("city", "exclusive", 10),
            caps=[{"per": "org", "amount_u": 60, "basis": "issued"}],
        ),
        document(
            "rival",
            3000,
            stacking=stack("city", "exclusive", 20),
            caps=[{"per": "group", "group": "g", "amount_u": 50, "basis": "used"}],
        ),
        document(
            "district",
            3333,
            stacking=stack("district", "stack"),
            caps=[
                {"per": "group", "group": "g", "amount_u": 50, "basis": "used"},
                {"per": "funder_org", "funder": "nanshan", "amount_u": 7},
            ],
        ),
        document("later", 2000, mode="reimburse", stacking=stack("later", "stack")),
        document(
            "free",
            10_000,
            kind="free_quota",
            quota={"unit": "REQ:small", "amount": 2, "recurrence": "day"},
            window={"grant_ttl_days": 1},
        ),
    )
}


@dataclass
class GrantState:
    """A grant as the world keeps it; amounts in the grant's unit."""

    programme: Programme
    org: str
    account: int
    amount: int
    issued_at: int
    expires_at: int
    held: int = 0
    posted: int = 0
    given_up: int = 0

    @property
    def left(self) -> int:
        return self.amount - self.held - self.posted - self.given_up


@dataclass
class Call:
    org: str
    listing: str
    plan: Plan
    paid: Settlement | None = None
    notes: list[str] = field(default_factory=list)


def expected_draws(
    cost: int, grants: list[GrantState], now: int, trusted: bool
) -> list[tuple[int, int]]:
    """Return (account, amount) by the published order, for programmes with residual bases and no caps."""

    def live(grant: GrantState) -> bool:
        allowed = trusted or grant.programme.rules.kind == "free_quota"
        return allowed and grant.issued_at <= now < grant.expires_at and grant.left > 0

    live_grants = sorted(
        filter(live, grants), key=lambda g: (g.expires_at, g.left, f"grt_{g.account:04d}")
    )
    found: list[tuple[int, int]] = []
    rest = cost
    for grant in live_grants:
        if grant.programme.rules.kind == "free_quota" and rest:
            return [(grant.account, 1)]
    city_pays = False
    for code in ("city", "rival", "district", "later"):
        for grant in live_grants:
            if grant.programme.rules.code != code or (code in ("city", "rival") and city_pays):
                continue
            amount = min(rest * (grant.programme.rules.subsidy.ratio_bp or 0) // 10_000, grant.left)
            if amount:
                found.append((grant.account, amount))
                rest -= amount
                city_pays = city_pays or code in ("city", "rival")
    return found


class Vouchers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.wallet = dict.fromkeys(ORGS, 0)
        self.wallet_held = dict.fromkeys(ORGS, 0)
        self.topped_up = dict.fromkeys(ORGS, 0)
        self.spent = dict.fromkeys(ORGS, 0)
        self.grants: list[GrantState] = []
        self.calls: list[Call] = []
        self.budget = {"gd": 150, "sz": 90, "nanshan": 60}
        self.pools = {code: dict(self.budget) for code in PROGRAMMES}
        self.owed = 0

    @initialize(wallet=st.integers(0, 60), asked=st.integers(0, 60))
    def begin(self, wallet: int, asked: int) -> None:
        for org in ORGS:
            self.top_up(org, wallet)
            self.issue(org, "city", asked)
            self.issue(org, "district", 20)
        self.issue("org_a", "free", 2)

    # --- what happens ---------------------------------------------------------------------------------

    @rule(org=st.sampled_from(ORGS), amount=st.integers(1, 40))
    def top_up(self, org: str, amount: int) -> None:
        self.wallet[org] += amount
        self.topped_up[org] += amount

    @rule(
        org=st.sampled_from(ORGS),
        code=st.sampled_from(sorted(PROGRAMMES)),
        asked=st.integers(1, 60),
    )
    def issue(self, org: str, code: str, asked: int) -> None:
        programme = PROGRAMMES[code]
        pool = self.pools[code]
        if programme.rules.quota:
            asked = 2
        else:
            facts: dict[str, Any] = {}
            against = Against(org)
            keys = cap_keys(programme, facts, against, self.now)
            counted = {key: self._counted(cap, org, programme) for key, cap in keys.items()}
            asked = size(programme, asked, facts, against, self.now, counted, pool).amount_u
            if not asked:
                return
            for funder, part in self._split(programme, asked).items():
                pool[funder] -= part
        account = 10 + len(self.grants)
        expires = programme.expiry_us(self.now)
        self.grants.append(GrantState(programme, org, account, asked, self.now, expires))

    @rule(
        org=st.sampled_from(ORGS),
        listing=st.sampled_from(["plain", "plain", "plain", "own", "related"]),
        cost=st.integers(0, 60),
    )
    def admit(self, org: str, listing: str, cost: int) -> None:
        mine = [grant for grant in self.grants if grant.org == org]
        trusted = (org, listing) not in RELATED
        facts = {
            "listing.self_owned": listing == "own" and not trusted,
            "listing.related_party": listing == "related" and not trusted,
            "listing.quota_class": "small",
        }
        terms = [
            grant.programme.terms(
                Issued(
                    f"grt_{grant.account:04d}",
                    grant.account,
                    grant.issued_at,
                    grant.expires_at,
                    grant.left,
                )
            )
            for grant in mine
        ]
        ladder = build_ladder(terms, facts, wallet_account_id=WALLETS[org], at_us=self.now)
        left = {grant.account: grant.left for grant in mine} | {WALLETS[org]: self.wallet[org]}
        plan = ladder.draw(cost, left, self.now, tokens=5)
        assert [(leg.account_id, leg.amount) for leg in plan.legs] == expected_draws(
            cost, mine, self.now, trusted
        )
        best = ladder.max_affordable_cost_u(left, self.now, 5, ceiling_u=200)
        assert (cost <= best) == (plan.shortfall_u == 0)
        if plan.shortfall_u:
            return
        self.wallet[org] -= plan.wallet_hold_u
        self.wallet_held[org] += plan.wallet_hold_u
        for leg in plan.legs:
            self._grant(leg.account_id).held += leg.amount
        self.calls.append(Call(org, listing, Plan.from_json(plan.to_json())))

    @precondition(lambda self: any(call.paid is None for call in self.calls))
    @rule(data=st.data(), percent=st.sampled_from([0, 1, 50, 99, 100, 100, 130]))
    def settle(self, data: st.DataObject, percent: int) -> None:
        call = data.draw(st.sampled_from([c for c in self.calls if c.paid is None]))
        actual = call.plan.cost_u * percent // 100
        call.paid = paid = replay(call.plan, actual)
        self.wallet_held[call.org] -= call.plan.wallet_hold_u
        self.wallet[call.org] += call.plan.wallet_hold_u - paid.self_u
        self.spent[call.org] += paid.self_u
        for hold, leg in zip(call.plan.legs, paid.legs, strict=True):
            grant = self._grant(leg.account_id)
            assert leg.amount <= hold.amount
            grant.held -= hold.amount
            grant.posted += leg.amount
            self._give_up_if_over(grant)

    @precondition(lambda self: any(call.paid is None for call in self.calls))
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from([c for c in self.calls if c.paid is None]))
        self.calls.remove(call)
        self.wallet_held[call.org] -= call.plan.wallet_hold_u
        self.wallet[call.org] += call.plan.wallet_hold_u
        for leg in call.plan.legs:
            grant = self._grant(leg.account_id)
            grant.held -= leg.amount
            self._give_up_if_over(grant)

    @rule(days=st.sampled_from([1, 1, 2]))
    def days_pass(self, days: int) -> None:
        self.now += days * DAY
        for grant in self.grants:
            self._give_up_if_over(grant)

    # --- what always holds ----------------------------------------------------------------------------

    @invariant()
    def nobody_is_below_zero(self) -> None:
        assert min(self.wallet.values()) >= 0
        assert min(self.wallet_held.values()) >= 0
        for grant in self.grants:
            assert min(grant.left, grant.held, grant.posted, grant.given_up) >= 0
        for pool in self.pools.values():
            assert min(pool.values()) >= 0

    @invariant()
    def money_is_kept(self) -> None:
        for org in ORGS:
            assert self.topped_up[org] == self.wallet[org] + self.wallet_held[org] + self.spent[org]
        for account in {leg.account_id for call in self.calls for leg in call.plan.legs}:
            grant = self._grant(account)
            legs = [
                (call.paid is None, leg.amount)
                for call in self.calls
                for leg in (call.paid or call.plan).legs
                if leg.account_id == account
            ]
            assert grant.held == sum(amount for open_, amount in legs if open_)
            assert grant.posted == sum(amount for open_, amount in legs if not open_)

    @invariant()
    def every_call_adds_up_and_pays_no_one_twice(self) -> None:
        for call in self.calls:
            cost = call.plan.cost_u if call.paid is None else call.paid.cost_u
            rest = call.plan.self_u if call.paid is None else call.paid.self_u + call.paid.overrun_u
            assert sum(leg.covered_u for leg in (call.paid or call.plan).legs) + rest == cost
            codes = [self._grant(leg.account_id).programme.rules.code for leg in call.plan.legs]
            assert sum(code in ("city", "rival") for code in codes) <= 1
            if (call.org, call.listing) in RELATED:
                assert set(codes) <= {"free"}

    @invariant()
    def caps_hold(self) -> None:
        for org in ORGS:
            mine = [grant for grant in self.grants if grant.org == org]
            assert sum(g.amount for g in mine if g.programme.rules.code == "city") <= 60
            group = [g for g in mine if g.programme.rules.code in ("rival", "district")]
            assert sum(g.amount - g.given_up for g in group) <= 50
            district = [g for g in mine if g.programme.rules.code == "district"]
            assert sum(self._split(g.programme, g.amount)["nanshan"] for g in district) <= 7

    @invariant()
    def each_funder_pays_its_share_and_no_more_than_its_budget(self) -> None:
        for code, pool in self.pools.items():
            if code == "free":
                continue
            out = dict.fromkeys(self.budget, 0)
            for grant in self.grants:
                if grant.programme.rules.code != code:
                    continue
                # A lapsed grant is backed for what was and may yet be used of it.
                kept = self._split(grant.programme, grant.amount - grant.given_up)
                used = self._split(grant.programme, grant.posted)
                for funder, share in grant.programme.shares:
                    assert abs(used[funder] * 10_000 - grant.posted * share) < 10_000
                    assert used[funder] <= kept[funder]
                    out[funder] += kept[funder]
            assert all(self.budget[f] == pool[f] + out[f] for f in self.budget)

    # --- the world's own books ------------------------------------------------------------------------

    def _grant(self, account: int) -> GrantState:
        return self.grants[account - 10]

    def _split(self, programme: Programme, total: int) -> dict[str, int]:
        split = FunderSplit([(0, programme.shares)])
        return dict(zip(split.funders, split.drawn(total), strict=True))

    def _give_up_if_over(self, grant: GrantState) -> None:
        if grant.expires_at <= self.now and grant.left:
            before = self._split(grant.programme, grant.amount - grant.given_up)
            grant.given_up += grant.left
            after = self._split(grant.programme, grant.amount - grant.given_up)
            if not grant.programme.rules.quota:
                for funder, part in before.items():
                    self.pools[grant.programme.rules.code][funder] += part - after[funder]

    def _counted(self, cap: Any, org: str, programme: Programme) -> Counted:
        codes = {"rival", "district"} if cap.per == "group" else {programme.rules.code}
        mine = [g for g in self.grants if g.org == org and g.programme.rules.code in codes]

        def measured(grant: GrantState, total: int) -> int:
            parts = self._split(grant.programme, total)
            return parts[cap.funder] if cap.per == "funder_org" else total

        return Counted(
            issued_u=sum(measured(g, g.amount) for g in mine),
            used_u=sum(measured(g, g.posted) for g in mine),
            open_u=sum(measured(g, g.amount - g.given_up) - measured(g, g.posted) for g in mine),
        )


Vouchers.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestVouchers = Vouchers.TestCase
