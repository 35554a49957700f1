"""Random prices, ladders and calls, and the compiled lane held against the Python that it must equal.

A million of them by hand: PYTHONPATH=tests python -m support.pay_cases 1000000 7
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from catalog.ground.units import MAX_U, WHOLE_BP
from catalog.listings.callable import CallableListing
from marketplace.gateway.caps import NO_CAPS, Cap, KeyCaps
from marketplace.gateway.money import Books, Call
from marketplace.gateway.records import EndpointRecord, KeyRecord, ListingRecord, OrgLadder
from marketplace.gateway.reserves import Reserves
from marketplace.prices.components import Buckets, Components, OffPeak, Tier, canonical, cost_u
from marketplace.prices.usage import Usage
from marketplace.vouchers.ladder import Ladder, Step
from marketplace.vouchers.plan import CNY, FREE, INSTANT, REIMBURSE, UNIT_NAMES, Plan
from marketplace.vouchers.terms import Facts, GrantTerms, Stacking
from marketplace.vouchers.waterfall import build_ladder

PLENTY = 1 << 62
MOST_COST_U = MAX_U // WHOLE_BP
MOST_TOKENS = 1 << 40
"""What made.hpp reckons with."""
BOOKS = Books(clearing=1, overrun=2, rounding=3, free_cost=4, fee=5)
PER_TOKEN = Components(input_u_per_m=1_000_000, output_u_per_m=1_000_000)
"""One micro-yuan a token."""
WALLET = 99
NOW = 1_780_000_000_000_000
FACTS: Facts = {
    "listing.self_owned": False,
    "listing.related_party": False,
    "listing.quota_class": "small",
}


@dataclass
class Ask:
    """One call: what is asked for, which accounts have a reserve, what the engine says was used."""

    input_tokens: int
    max_tokens: int
    began_us: int
    open: frozenset[int]
    empty_until_us: dict[int, int]
    used: Buckets
    limits: tuple[int, int] | None = None
    """Input and output that the usage may claim, where that is not what was asked for."""
    why: str = "only"
    raw_usage: str = "{}"
    streamed: bool = False
    first_token_us: int = 0


def record_of(price: Components, fee_bp: int = 0, slug: str = "maker/mini") -> ListingRecord:
    """Return a listing of this price; its owner's account is 6."""
    listing = CallableListing(
        "lst", slug, "model", "listed", "public", "maker", 1, None, None, None, None, None
    )
    return ListingRecord(listing, "prc_1", price, canonical(price)[0], PLENTY, 6, fee_bp, ())


def terms_of(
    price: Components, payer: OrgLadder, caps: KeyCaps = NO_CAPS, fee_bp: int = 0
) -> SimpleNamespace:
    """Return terms as `terms.Terms` has them, as far as money is concerned."""
    key = replace(KeyRecord.of_organisation("org_1", "city"), id="key_1", project_id="prj_1")
    endpoint = EndpointRecord(id="ept_1", url="", model="")
    record = record_of(price, fee_bp)
    return SimpleNamespace(key=key, record=record, payer=payer, caps=caps, endpoint=endpoint)


def payer_of(
    ladder: Ladder, sinks: dict[int, int] | None = None, built_at_us: int = 0
) -> OrgLadder:
    """Return who pays, by a ladder whose wallet is `WALLET`."""
    accounts = (*(step.account_id for step in ladder.steps), WALLET)
    return OrgLadder(ladder, accounts, sinks or {}, PLENTY, built_at_us)


def call_of(terms: Any, ask: Ask) -> Call:
    """Return the call of an `Ask`."""
    return Call(
        id="gen_1", key=terms.key, record=terms.record, payer=terms.payer, books=BOOKS,
        input_tokens=ask.input_tokens, choices=1, max_tokens=ask.max_tokens,
        started_at_us=ask.began_us, streamed=ask.streamed, request_sha256="ab" * 32,
        endpoint=terms.endpoint, caps=terms.caps, first_token_us=ask.first_token_us, why=ask.why,
    )  # fmt: skip


def hold_together(lane: Any, terms: Any, ask: Ask) -> dict[str, Any] | None:
    """Assert that the compiled part says of this call what Python says; returns its bill."""
    call = call_of(terms, ask)
    accounts = list(dict.fromkeys(call.accounts))
    assert lane.accounts() == accounts
    bits = sum(1 << i for i, account in enumerate(accounts) if account in ask.open)
    available = {account: PLENTY for account in accounts if account in ask.open}
    plan = call.draw(ask.max_tokens, available)
    got = lane.draw(ask.input_tokens, ask.max_tokens, ask.began_us, bits)
    tokens = max(ask.input_tokens, ask.max_tokens)
    if plan.cost_u > MOST_COST_U or tokens > MOST_TOKENS:
        assert (got["shortfall_u"], got["draws"], got["legs"]) == (MAX_U, [], [])
        assert _bill(lane, ask) is None
        return None
    assert got == _plan(call, plan)
    _hold_sight_together(lane, call, plan, available, bits, ask)
    return _hold_bills_together(lane, call, plan, ask)


def _plan(call: Call, plan: Plan) -> dict[str, Any]:
    return {
        "cost_u": plan.cost_u,
        "tokens": plan.tokens,
        "self_u": plan.self_u,
        "slack_u": plan.slack_u,
        "shortfall_u": plan.shortfall_u,
        "draws": [
            (a, unit, amount, covered, kind, ratio, base, cap, chain)
            for _, a, unit, amount, covered, kind, ratio, base, cap, chain in plan.legs
        ],
        "skipped": list(plan.skipped),
        "legs": [tuple(leg) for leg in call.legs(plan)],
    }


def _hold_sight_together(
    lane: Any, call: Call, plan: Plan, available: dict[int, int], bits: int, ask: Ask
) -> None:
    reserves: Any = Reserves.__new__(Reserves)
    reserves._empty_until_us = ask.empty_until_us
    until = [ask.empty_until_us.get(account, 0) for account in lane.accounts()]
    saw_all = reserves._saw_all(call, plan, available)
    assert lane.saw_all(bits, until, ask.began_us) is saw_all


def _bill(lane: Any, ask: Ask) -> dict[str, Any] | None:
    limits = ask.limits or (ask.input_tokens, ask.max_tokens)
    bill: dict[str, Any] | None = lane.settle(tuple(ask.used[:5]), *limits, ask.began_us)
    return bill


def _hold_bills_together(lane: Any, call: Call, plan: Plan, ask: Ask) -> dict[str, Any] | None:
    got = _bill(lane, ask)
    call.plan = plan
    call.input_tokens, call.max_tokens = ask.limits or (ask.input_tokens, ask.max_tokens)
    read = Usage(ask.used, ())
    strange = (
        plan.shortfall_u
        or call.bounded(read) != read
        or min(ask.used) < 0
        or max(ask.used) > MOST_TOKENS
        or cost_u(ask.used, call.record.components, at_us=ask.began_us) > MOST_COST_U
    )
    if strange:
        assert got is None
        return None
    ended_us = ask.began_us + 1_000
    bill = call.settle(ask.used, ask.raw_usage, "engine", "ok", ended_us)
    charge = bill.charge(call)
    assert got == {
        "cost_u": bill.cost_u,
        "free_u": bill.free_u,
        "voucher_u": bill.voucher_u,
        "wallet_u": bill.wallet_u,
        "counted_u": bill.counted_u,
        "rounding_u": bill.rounding_u,
        "overrun_u": bill.overrun_u,
        "legs": [tuple(leg) for leg in charge.legs],
        "entries": [tuple(entry) for entry in charge.entries],
        "used": tuple(ask.used[:5]),
    }
    row = lane.usage_row(
        id=call.id,
        raw_usage=ask.raw_usage,
        request_sha256=call.request_sha256,
        source="engine",
        outcome="ok",
        why=ask.why,
        began_us=ask.began_us,
        first_token_us=ask.first_token_us,
        ended_us=ended_us,
        streamed=ask.streamed,
    )
    assert row == list(charge.usage)
    assert [type(value) for value in row] == [type(value) for value in charge.usage]
    headers = b"".join(b"%s: %s\r\n" % header for header in bill.headers())
    assert lane.cost_headers() == headers
    return got


# Chance. A hypothesis `Random` makes these shrink.


def random_price(chance: random.Random) -> Components:
    """Return a price of any shape, odd ones (windows that overlap) too."""
    if chance.random() < 0.2:
        return PER_TOKEN
    most = chance.choice([0, 3, 100_000, 9_000_000, 9_000_000, 10**9, 10**12])

    def rate() -> int:
        return chance.choice([0, most, chance.randint(0, most), chance.randint(0, most)])

    def maybe() -> int | None:
        return chance.choice([None, None, rate()])

    longest = chance.choice([5, 400, 100_000])
    overs = sorted({chance.randint(1, longest) for _ in range(chance.choice([0, 0, 1, 2, 3]))})
    return Components(
        rate(), rate(), maybe(), maybe(), maybe(),
        request_u=chance.choice([0, 0, 1, chance.randint(0, 10_000), most]),
        image_u=chance.choice([0, 7]), second_u=chance.choice([0, 7]),
        tiers=tuple(Tier(over, rate(), rate(), maybe(), maybe(), maybe()) for over in overs),
        off_peak=tuple(
            OffPeak(_time(chance), _time(chance), chance.choice([0, 3333, 5000, 9999, WHOLE_BP]))
            for _ in range(chance.choice([0, 0, 0, 1, 2]))
        ),
    )  # fmt: skip


def _time(chance: random.Random) -> str:
    return f"{chance.randint(0, 23):02d}:{chance.choice([0, 1, 30, 59]):02d}"


def _bp(chance: random.Random) -> int:
    return chance.choice([0, 1, 324, 3333, 5000, 9999, WHOLE_BP, chance.randint(0, WHOLE_BP)])


def random_grants(chance: random.Random) -> Ladder:
    """Return a ladder such as the office makes them."""
    grants = []
    for account in range(10, 10 + chance.randint(0, 6)):
        unit = chance.choice(["CNY", "CNY", "CNY", "TOK:small", "REQ:small"])
        free = unit != "CNY" or chance.random() < 0.15
        kinds: list[Stacking] = ["stack", "stack", "exclusive", "better_of"]
        grants.append(
            GrantTerms(
                grant_id=f"grt_{account}",
                account_id=account,
                programme="p@1",
                unit=unit,
                free_quota=free,
                ratio_bp=_bp(chance),
                base=chance.choice(["residual", "residual", "list"]),
                total_cap_bp=chance.choice([WHOLE_BP, WHOLE_BP, _bp(chance)]),
                mode="instant" if free else chance.choice(["instant", "instant", "reimburse"]),
                stacking=chance.choice(kinds),
                stack_class=chance.choice(["city", "district"]),
                chain=chance.choice(["", "", "scale", "slope"]),
                bracket=chance.randint(0, 3),
                priority=chance.randint(0, 2),
                expires_at_us=chance.choice([MAX_U, NOW + 5]),
            )
        )
    return build_ladder(grants, FACTS, wallet_account_id=WALLET, at_us=0)


def random_steps(chance: random.Random) -> Ladder:
    """Return a ladder that no office would make: every rule meets every other."""
    steps = []
    for number in range(chance.randint(0, 7)):
        bit = chance.choice([0, 0, 1, 2, 1 << 62])
        steps.append(
            Step(
                account_id=10 + (number if chance.random() < 0.9 else 0),
                unit=chance.choice([CNY, CNY, CNY, 1, 2]),
                kind=chance.randint(FREE, REIMBURSE),
                ratio_bp=_bp(chance),
                base=chance.randint(0, 1),
                cap_bp=chance.choice([WHOLE_BP, WHOLE_BP, _bp(chance)]),
                chain=chance.choice([0, 0, 1, 2]),
                bit=bit,
                takes=chance.choice([0, bit]),
                effective_at_us=chance.choice([0, -PLENTY, NOW, NOW + 1]),
                expires_at_us=chance.choice([MAX_U, NOW, NOW + 1]),
                grant_id="",
                programme="",
            )
        )
    return Ladder(tuple(steps), (), WALLET)


def random_knots(chance: random.Random) -> Ladder:
    """Return a ladder of money alone whose caps, scales and roundings get into each other's way."""
    ratios = [chance.choice([0, 1, 3333, 5000, 9000, WHOLE_BP, _bp(chance)]) for _ in range(5)]
    rest = 1.0
    for ratio in ratios[:2]:
        rest *= 1 - ratio / WHOLE_BP
    tight = min(WHOLE_BP, max(0, round((1 - rest) * WHOLE_BP) + chance.randint(-1, 2)))
    steps = [
        Step(
            account_id=10 + number,
            unit=CNY,
            kind=chance.choice([FREE, INSTANT, INSTANT, REIMBURSE]),
            ratio_bp=ratio,
            base=chance.randint(0, 1),
            cap_bp=chance.choice([WHOLE_BP, WHOLE_BP, tight, _bp(chance)]),
            chain=chance.choice([0, 0, 1, 1, 2]),
            bit=0,
            takes=0,
            effective_at_us=-PLENTY,
            expires_at_us=MAX_U,
            grant_id="",
            programme="",
        )
        for number, ratio in enumerate(ratios[: chance.randint(2, 5)])
    ]
    return Ladder(tuple(steps), (), WALLET)


def random_terms(chance: random.Random) -> SimpleNamespace:
    """Return terms of any kind that the lane serves."""
    ladder = chance.choice([random_grants, random_steps, random_knots])(chance)
    sinks = {}
    for step in ladder.steps:
        if (step.unit != CNY or step.kind == REIMBURSE) and chance.random() < 0.95:
            sinks[step.account_id] = 50 + step.unit
    built_at_us = chance.choice([0, NOW - 1, NOW + 1])
    caps = NO_CAPS
    if chance.random() < 0.4:
        windows = [Cap("key.daily_u", 70, 10**9, NOW), Cap("key.monthly_u", 71, 10**9, NOW)]
        caps = KeyCaps(tuple(windows[: chance.randint(1, 2)]), chance.choice([77, BOOKS.clearing]))
    payer = payer_of(ladder, sinks, built_at_us)
    terms = terms_of(random_price(chance), payer, caps, _bp(chance))
    text = chance.choice(['a"b\\c\n', "模型/小 🎛", "", "plain"])
    listing = replace(terms.record.listing, slug=text, release_id=chance.choice([None, "", text]))
    terms.record = replace(terms.record, listing=listing, price_version_id=text)
    terms.key = replace(terms.key, project_id=text)
    return terms


def random_ask(chance: random.Random, terms: Any) -> Ask:
    """Return a call under these terms."""
    accounts = {*terms.payer.accounts, *terms.caps.accounts}
    begins = [0, -1, -(10**15), NOW, NOW + 1, NOW - 1, NOW + chance.randint(0, 10**11)]
    most = chance.choice([3, 300, 300, 20_000, 20_000, 300_000, 10**9, MOST_TOKENS + 1])
    input_tokens, max_tokens = chance.randint(0, most), chance.choice([0, chance.randint(0, most)])
    limits = None
    if chance.random() < 0.2:
        limits = input_tokens * chance.randint(0, 3), max_tokens * chance.randint(0, 3)
    within = limits or (input_tokens, max_tokens)
    began_us = chance.choice(begins)
    kept = chance.choice([1.0, 1.0, 0.9, 0.5])
    return Ask(
        input_tokens, max_tokens, began_us,
        open=frozenset(a for a in sorted(accounts) if chance.random() < kept),
        empty_until_us={
            a: began_us + chance.randint(-2, 2) for a in sorted(accounts) if chance.random() < 0.6
        },
        used=_random_used(chance, *within), limits=limits,
        why=chance.choice(["only", "affinity:busy", "least_loaded", "retry:connect>only"]),
        raw_usage=chance.choice(["{}", '{"prompt_tokens":1,"x":"\\n 中"}']),
        streamed=chance.random() < 0.5, first_token_us=chance.choice([0, 40_000]),
    )  # fmt: skip


def _random_used(chance: random.Random, input_tokens: int, output_tokens: int) -> Buckets:
    odd = chance.random()
    if odd < 0.02:
        return Buckets(input_tokens + 1, 0, 0, output_tokens, 0)
    if odd < 0.04:
        return Buckets(0, input_tokens, 0, output_tokens, 1)
    if odd < 0.05:
        return Buckets(0, -1, 0, output_tokens, 0)
    given = chance.choice([input_tokens, chance.randint(0, input_tokens)])
    made = chance.choice([output_tokens, chance.randint(0, output_tokens)])
    read, written = 0, 0
    if chance.random() < 0.5:
        read = chance.randint(0, given)
        written = chance.choice([0, chance.randint(0, given - read)])
    thought = chance.choice([0, chance.randint(0, made)])
    return Buckets(given - read - written, read, written, made - thought, thought)


def hold_chance_together(kind: Any, chance: random.Random, asks: int = 3) -> int:
    """Compare some calls under random terms, all on one object; returns how many were billed."""
    terms = random_terms(chance)
    lane = kind(terms, BOOKS)
    billed = 0
    for _ in range(asks):
        billed += hold_together(lane, terms, random_ask(chance, terms)) is not None
    return billed


if __name__ == "__main__":
    from marketplace.gateway.express._core import Terms

    cases, seed = int(sys.argv[1]), int(sys.argv[2])
    dice = random.Random(seed)
    done = sum(hold_chance_together(Terms, dice, 4) for _ in range(cases // 4))
    print(
        f"{cases // 4 * 4} calls alike, {done} of them billed ({', '.join(UNIT_NAMES)}), seed {seed}"
    )
