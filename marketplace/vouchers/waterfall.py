"""The waterfall: from a cost and what is left on each grant to draws, in one fixed order.

    free quota ─► exclusive class: its best grant ─► stackable grants ─► [reimbursed later] ─► wallet

Two phases, because it runs for every request. `build_ladder` decides what does not depend on the amount:
who is eligible, in which order, and who is refused by which rule. It is slow (tens of microseconds) and
its result is kept per organisation and listing until a grant, a fact or a programme changes.
`Ladder.draw` is integers only.

Each step pays `min(⌊base x ratio / 10⁴⌋, left on the grant, cost not yet paid, room under the total
cap)`. The base is what is still unpaid (`residual`) or the whole cost (`list`); neither counts what a
free quota covers, since that is not spent. With residual bases and no caps a step maps what is unpaid
with a slope of 0 or 1, so a smaller cost never needs more from anyone: whatever a call costs in the end,
it fits what was held for its estimate. List bases and caps miss that by less than one micro-yuan a step;
then the wallet holds that much more (`slack_u`) if it has it.

Caps per organisation, contract or group are not here: they are used up when a grant is issued or a
tranche is leased, so that a request touches one row per grant and never a shared one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from catalog.ground.errors import BadRequest
from catalog.ground.units import MAX_U
from marketplace.vouchers.ladder import Ladder, Step, largest
from marketplace.vouchers.plan import (
    FREE,
    INSTANT,
    LIST,
    REIMBURSE,
    RESIDUAL,
    UNIT_NAMES,
    Leg,
    Plan,
    Settlement,
    replay,
)
from marketplace.vouchers.terms import (
    QUOTA_CLASS,
    RELATED_PARTY,
    SELF_OWNED,
    Facts,
    GrantTerms,
    Refusal,
)

__all__ = [
    "Facts",
    "GrantTerms",
    "Ladder",
    "Leg",
    "Plan",
    "Refusal",
    "Settlement",
    "build_ladder",
    "largest",
    "replay",
]


def build_ladder(
    terms: Sequence[GrantTerms],
    facts: Facts,
    *,
    wallet_account_id: int | None,
    at_us: int,
    programmes: Collection[str] | None = None,
    vouchers: bool = True,
) -> Ladder:
    """Return the order in which these grants pay for one listing, and why the others do not.

    `facts` must know `listing.self_owned` and `listing.related_party`: without them no subsidy pays (a
    free quota does). `wallet_account_id=None` when the caller's own money must not be used. The caller's
    wishes: `programmes` (codes or code@version) are the only vouchers to use; `vouchers=False` uses none
    but free quotas. Rebuild when a grant, a fact, a listing or a programme changes.
    """
    accepted: list[tuple[GrantTerms, int]] = []
    refusals: list[Refusal] = []
    for grant in terms:
        ratio_bp, refusal = _judge(grant, facts, at_us, programmes, vouchers)
        if refusal is None:
            accepted.append((grant, ratio_bp))
        else:
            refusals.append(refusal)
    return Ladder(_order(accepted), tuple(refusals), wallet_account_id)


def _judge(
    grant: GrantTerms,
    facts: Facts,
    at_us: int,
    programmes: Collection[str] | None,
    vouchers: bool,
) -> tuple[int, Refusal | None]:
    """Return the ratio that applies, or the first rule that refuses."""

    def refuse(rule: str, clause: str, words: str) -> tuple[int, Refusal]:
        message = f"Voucher {grant.grant_id} of {grant.programme} {words.rstrip('.')}."
        return 0, Refusal(grant.grant_id, grant.programme, rule, clause, message)

    if grant.expires_at_us <= at_us:
        return refuse("grant.window", "", "has expired")
    kind, _, quota_class = grant.unit.partition(":")
    if kind != "CNY" and quota_class != facts.get(QUOTA_CLASS):
        return refuse("items.quota_class", "", f"is a quota for listings of class {quota_class!r}")
    if not grant.free_quota:
        code = grant.programme.partition("@")[0]
        if not vouchers or (
            programmes is not None and not {code, grant.programme} & set(programmes)
        ):
            return refuse("request.billing", "", "was left out by the request's billing choice")
        if grant.blocks_self_owned and facts.get(SELF_OWNED) is not False:
            return refuse(
                "anti_fraud.self_owned", grant.anti_fraud_clause, "cannot pay for one's own listing"
            )
        if grant.blocks_related_party and facts.get(RELATED_PARTY) is not False:
            return refuse(
                "anti_fraud.related_party", grant.anti_fraud_clause, "cannot pay a related party"
            )
    for condition in grant.conditions:
        if not condition.holds(facts):
            words = f"does not pay here: {condition.text or condition.rule}"
            return refuse(condition.rule, condition.clause, words)
    for tier, ratio_bp in grant.tiers:
        if tier is None or tier.holds(facts):
            return ratio_bp, None
    if grant.tiers:
        return refuse("subsidy.tiers", "", "has no ratio for this case")
    return grant.ratio_bp, None


def _order(accepted: list[tuple[GrantTerms, int]]) -> tuple[Step, ...]:
    bits = {
        name: 1 << i for i, name in enumerate(sorted({g.stack_class for g, _ in accepted} - {""}))
    }
    chains = {name: i for i, name in enumerate(sorted({g.chain for g, _ in accepted} - {""}), 1)}
    ends: dict[str, int] = {}
    best: dict[str, int] = {}
    first: dict[str, tuple[int, bool]] = {}
    for grant, ratio_bp in accepted:
        ends[grant.chain] = min(ends.get(grant.chain, MAX_U), grant.expires_at_us)
        best[grant.chain] = max(best.get(grant.chain, 0), ratio_bp)
        first[grant.chain] = min(first.get(grant.chain, _rank(grant)), _rank(grant))

    def key(item: tuple[GrantTerms, int]) -> tuple[object, ...]:
        # A scale comes where the first of its grants would, with all its brackets: were others between
        # them, a call that costs less than its estimate could need more from the wallet.
        grant, ratio_bp = item
        unit = UNIT_NAMES.index(grant.unit.partition(":")[0])
        phase = 0 if grant.free_quota else 1 if grant.stacking != "stack" else 2
        return (
            grant.mode == "reimburse",
            phase,
            # The highest ratio wins a better-of class; whoever excludes without comparing goes by priority.
            -(best[grant.chain] if grant.chain else ratio_bp) * (grant.stacking == "better_of"),
            # A quota that covers the whole call goes before money that would cover a part of it.
            -unit,
            first[grant.chain] if grant.chain else _rank(grant),
            ends[grant.chain] if grant.chain else grant.expires_at_us,
            grant.chain,
            grant.bracket,
            _rank(grant),
            grant.remaining,
            grant.grant_id,
        )

    return tuple(
        _step(grant, ratio_bp, bits, chains) for grant, ratio_bp in sorted(accepted, key=key)
    )


def _rank(grant: GrantTerms) -> tuple[int, bool]:
    return grant.priority, not grant.item_specific


def _step(grant: GrantTerms, ratio_bp: int, bits: dict[str, int], chains: dict[str, int]) -> Step:
    if grant.free_quota and grant.mode == "reimburse":
        raise BadRequest("A free quota cannot be reimbursed later.", rule="grant.mode")
    bit = bits.get(grant.stack_class, 0)
    return Step(
        account_id=grant.account_id,
        unit=UNIT_NAMES.index(grant.unit.partition(":")[0]),
        kind=FREE if grant.free_quota else REIMBURSE if grant.mode == "reimburse" else INSTANT,
        ratio_bp=ratio_bp,
        base=LIST if grant.base == "list" else RESIDUAL,
        cap_bp=grant.total_cap_bp,
        chain=chains.get(grant.chain, 0),
        bit=bit,
        takes=bit if grant.stacking != "stack" else 0,
        effective_at_us=grant.effective_at_us,
        expires_at_us=grant.expires_at_us,
        grant_id=grant.grant_id,
        programme=grant.programme,
    )
