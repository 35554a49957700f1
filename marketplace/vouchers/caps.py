"""How much may be issued: the caps of a programme, used up when a grant is issued or a tranche leased.

A cap binds at that moment and not at each request: what a grant holds is inside every cap already, so a
request touches its grant's row and never a shared one. What lapses or is voided gives its room back,
where the basis is what was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from catalog.ground.clock import zone
from catalog.ground.units import MAX_U, WHOLE_BP, share_u
from marketplace.vouchers.predicates import compile_check
from marketplace.vouchers.rules import Programme
from marketplace.vouchers.schema import Cap
from marketplace.vouchers.terms import Facts, Refusal

_VELOCITY = "velocity"


class Against(NamedTuple):
    """For whom a grant is asked; empty where it does not apply."""

    org: str
    contract: str = ""
    provider: str = ""


class Counted(NamedTuple):
    """What counts against one cap key so far, micro-yuan: issued, used, and still open."""

    issued_u: int = 0
    used_u: int = 0
    open_u: int = 0


class Sized(NamedTuple):
    """The amount that may be issued, and which caps made it less than was asked for."""

    amount_u: int
    bound_by: tuple[Refusal, ...]


def period_key(period: str, at_us: int) -> str:
    """Return the cap's period in Beijing time: `2026`, `2026-11`, a day, or nothing."""
    day = datetime.fromtimestamp(at_us // 1_000_000, zone).date().isoformat()
    return {"calendar_year": day[:4], "month": day[:7], "day": day, "programme": ""}[period]


def cap_key(programme: Programme, cap: Cap, against: Against, at_us: int) -> str:
    """Return under which name usage counts against the cap, such as `sz-model-2025/org/org_1/2026`.

    Versions of one programme share it; a group's programmes share theirs.
    """
    subject = {
        "org": against.org,
        "group": against.org,
        "contract": against.contract,
        "provider": against.provider,
        "funder_org": f"{cap.funder}+{against.org}",
    }[cap.per]
    scope = f"group:{cap.group}" if cap.group else programme.rules.code
    return f"{scope}/{cap.per}/{subject}/{period_key(cap.period, at_us)}"


def velocity_key(programme: Programme, org_id: str, at_us: int) -> str:
    """Return under which name a day's issues to an organisation count against the programme's velocity."""
    return f"{programme.rules.code}/{_VELOCITY}/{org_id}/{period_key('day', at_us)}"


def cap_keys(programme: Programme, facts: Facts, against: Against, at_us: int) -> dict[str, Cap]:
    """Return the caps that apply to these facts, by key: sum up `Counted` for each, then call `size`."""
    keys: dict[str, Cap] = {}
    for cap in programme.rules.caps:
        # What is not known does not lift a cap.
        if cap.when is not None and compile_check(cap.when)(facts) is False:
            continue
        key = cap_key(programme, cap, against, at_us)
        if key not in keys or cap.amount_u < keys[key].amount_u:
            keys[key] = cap
    fraud = programme.rules.anti_fraud
    if fraud.velocity_u_per_day is not None:
        key = velocity_key(programme, against.org, at_us)
        keys[key] = Cap(
            per="org",
            amount_u=fraud.velocity_u_per_day,
            period="day",
            basis="issued",
            clause=fraud.clause,
        )
    return keys


def _rule(key: str, cap: Cap) -> str:
    if key.split("/")[1] == _VELOCITY:
        return "anti_fraud.velocity_u_per_day"
    return f"caps.{cap.per}"


def room_u(programme: Programme, cap: Cap, counted: Counted) -> int:
    """Return how much of a grant still fits under the cap, micro-yuan of the whole grant.

    A cap on one funder's part is measured in that part; the grant may be as large as its share allows.
    """
    used = counted.used_u + counted.open_u
    measure = {
        "issued": counted.issued_u,
        "used": used,
        "issued_or_used": max(counted.issued_u, used),
    }[cap.basis]
    room = max(0, cap.amount_u - measure)
    if cap.per != "funder_org":
        return room
    share = dict(programme.shares)[cap.funder or ""]
    return room * WHOLE_BP // share if share else MAX_U


def size(
    programme: Programme,
    requested_u: int,
    facts: Facts,
    against: Against,
    at_us: int,
    counted: Mapping[str, Counted],
    pools: Mapping[str, int],
) -> Sized:
    """Return how much of `requested_u` may be issued now.

    `counted` is by `cap_key` (absent: nothing yet), `pools` what each funder has left. A funder with too
    little bounds the whole grant, unless the programme rescales or the platform covers.
    """
    amount, bound = requested_u, []
    for key, cap in cap_keys(programme, facts, against, at_us).items():
        room = room_u(programme, cap, counted.get(key, Counted()))
        if room < amount:
            amount = room
            whom = f"{cap.per} and those related to it" if cap.with_related else cap.per
            text = (
                f"The cap of {cap.amount_u} micro-yuan per {whom} and {cap.period} leaves {room}."
            )
            bound.append(Refusal("", programme.name, _rule(key, cap), cap.clause, text))
    if programme.rules.on_funder_exhausted == "stop":
        for funder, share in programme.shares:
            left = pools.get(funder, 0)
            # The largest grant whose share, rounded up, the funder can still back.
            room = left * WHOLE_BP // share if share else MAX_U
            if room < amount:
                amount = room
                text = f"Funder {funder} has {left} micro-yuan left for its share."
                bound.append(Refusal("", programme.name, "funders.exhausted", "", text))
    return Sized(amount, tuple(bound))


def contract_grant_u(programme: Programme, contract_u: int, facts: Facts) -> int:
    """Return the face of a voucher on a contract: its amount times the ratio that the facts give."""
    subsidy = programme.rules.subsidy
    if subsidy.upto:
        return sum(size for _, _, size in _scale(programme, contract_u))
    for tier in subsidy.tiers:
        if tier.when is None or compile_check(tier.when)(facts) is True:
            return share_u(contract_u, tier.ratio_bp)
    return share_u(contract_u, subsidy.ratio_bp or 0)


def _scale(programme: Programme, spend_u: int) -> list[tuple[int, int, int]]:
    parts, below = [], 0
    for number, bracket in enumerate(programme.rules.subsidy.upto):
        top = spend_u if bracket.spend_u is None else min(spend_u, bracket.spend_u)
        parts.append((number, bracket.ratio_bp, share_u(max(0, top - below), bracket.ratio_bp)))
        below = max(below, top)
    return parts
