"""One organisation's ladder for one listing, and the draw down it: integers only, for every request.

The order, the rules and the reasons are told in `waterfall`, which builds ladders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from catalog.ground.units import MAX_U, WHOLE_BP
from marketplace.vouchers.plan import (
    CNY,
    FREE,
    LIST,
    REIMBURSE,
    REQ,
    RESIDUAL,
    TOK,
    Leg,
    Plan,
    rest_of_bracket,
)
from marketplace.vouchers.terms import Refusal

NOT_IN_FORCE, EXCLUDED, EXHAUSTED, TOO_FEW_TOKENS, CAPPED = range(1, 6)
_REASONS = {
    NOT_IN_FORCE: ("grant.window", "is not in force now"),
    EXCLUDED: ("stack.class", "is of a class of which another voucher already pays"),
    EXHAUSTED: ("grant.exhausted", "has nothing left"),
    TOO_FEW_TOKENS: ("grant.tokens", "has fewer tokens left than this call may use"),
    CAPPED: ("stack.total", "adds nothing: the total cap or rounding leaves no room"),
}


class Step(NamedTuple):
    """One rung: everything `draw` needs, as integers. `bit` marks the class, `takes` whether it closes it."""

    account_id: int
    unit: int
    kind: int
    ratio_bp: int
    base: int
    cap_bp: int
    chain: int
    bit: int
    takes: int
    effective_at_us: int
    expires_at_us: int
    grant_id: str
    programme: str


class Ladder:
    """The order in which an organisation's grants pay for one listing; made by `build_ladder`.

    `needs_slack` is true where list bases, caps or progressive scales take part.
    """

    __slots__ = ("needs_slack", "refusals", "steps", "wallet_account_id")

    def __init__(
        self,
        steps: tuple[Step, ...],
        refusals: tuple[Refusal, ...] = (),
        wallet_account_id: int | None = None,
    ) -> None:
        self.steps = steps
        self.refusals = refusals
        self.wallet_account_id = wallet_account_id
        self.needs_slack = any(s.base == LIST or s.cap_bp < WHOLE_BP or s.chain for s in steps)

    def draw(self, cost_u: int, available: Mapping[int, int], now_us: int, tokens: int = 0) -> Plan:
        """Return who pays `cost_u` micro-yuan now.

        `available` maps ledger account ids (the grants' and the wallet's) to what is left on them in
        their own unit; an absent account has nothing. `tokens` is the most that the call may use: a
        token quota pays all of it or none. The result may have `shortfall_u` > 0: then do not hold it.
        """
        left = spend = cost_u
        repaid = taken = chain = chain_base = ended = 0
        cap_bp = WHOLE_BP
        legs: list[Leg] = []
        skipped: list[tuple[int, int]] = []
        for index, step in enumerate(self.steps):
            if left <= 0:
                break
            (
                account,
                unit,
                kind,
                ratio,
                base_kind,
                own_cap,
                own_chain,
                bit,
                takes,
                start,
                end,
                name,
                _,
            ) = step
            if not start <= now_us < end:
                skipped.append((index, NOT_IN_FORCE))
                continue
            if bit & taken and not (own_chain and own_chain == chain):
                skipped.append((index, EXCLUDED))
                continue
            have = available.get(account, 0)
            if have <= 0:
                skipped.append((index, EXHAUSTED))
                continue
            if unit == CNY:
                base = left if base_kind == RESIDUAL else spend
                if own_chain:
                    if ended >> own_chain & 1:
                        base = 0
                    elif own_chain == chain:
                        base = chain_base
                amount = want = base * ratio // WHOLE_BP
                if have < amount:
                    amount = have
                if left < amount:
                    amount = left
                cap = own_cap if own_cap < cap_bp else cap_bp
                if cap < WHOLE_BP:
                    room = spend * cap // WHOLE_BP - spend + left
                    if room < amount:
                        amount = room
                if amount <= 0:
                    # A bracket that adds nothing has its base all the same: its scale has ended. Settling
                    # never sees it (`replay`), so the scale that pays now goes on.
                    if own_chain:
                        ended |= 1 << own_chain
                    skipped.append((index, CAPPED))
                    continue
                if own_chain:
                    chain, chain_base = own_chain, rest_of_bracket(base, want, have, ratio)
                cap_bp, covered = cap, amount
            elif unit == TOK and have < tokens:
                skipped.append((index, TOO_FEW_TOKENS))
                continue
            else:
                amount, covered, cap = (1 if unit == REQ else tokens), left, cap_bp
            taken |= takes
            left -= covered
            if kind == REIMBURSE:
                repaid += covered
                covered = 0
            elif kind == FREE:
                spend = left
            legs.append(
                Leg(name, account, unit, amount, covered, kind, ratio, base_kind, cap, own_chain)
            )
        return self._finish(cost_u, tokens, left + repaid, legs, skipped, available)

    def _finish(
        self,
        cost_u: int,
        tokens: int,
        self_u: int,
        legs: list[Leg],
        skipped: list[tuple[int, int]],
        available: Mapping[int, int],
    ) -> Plan:
        wallet = self.wallet_account_id
        have = available.get(wallet, 0) if wallet is not None else 0
        shortfall = max(0, self_u - max(0, have))
        # A wallet too short for the slack still pays: the platform's rounding account bears the dust.
        slack = min(len(legs), have - self_u) if self.needs_slack and legs and not shortfall else 0
        return Plan(cost_u, tokens, tuple(legs), wallet, self_u, slack, shortfall, tuple(skipped))

    def explain(self, plan: Plan) -> tuple[Refusal, ...]:
        """Return why grants did not pay: refused when the ladder was built, or skipped by this plan."""
        return self.refusals + tuple(
            Refusal(step.grant_id, step.programme, rule, "", f"Voucher {step.grant_id} {words}.")
            for step, (rule, words) in ((self.steps[i], _REASONS[why]) for i, why in plan.skipped)
        )

    def max_affordable_cost_u(
        self,
        available: Mapping[int, int],
        now_us: int,
        tokens: int = 0,
        ceiling_u: int = MAX_U,
    ) -> int:
        """Return the largest cost up to `ceiling_u` that leaves no shortfall, micro-yuan.

        Exact with residual bases and no caps. Otherwise it is an affordable cost, and the largest but
        for dips of a few micro-yuan. `tokens` as in `draw`.
        """

        def fits(cost_u: int) -> bool:
            return not self.draw(cost_u, available, now_us, tokens).shortfall_u

        if fits(ceiling_u):
            return ceiling_u
        accounts = {step.account_id for step in self.steps if step.unit == CNY}
        money = sum(max(0, available.get(account, 0)) for account in accounts)
        if self.wallet_account_id is not None:
            money += max(0, available.get(self.wallet_account_id, 0))
        return largest(fits, min(money, ceiling_u))


def largest(fits: Callable[[int], bool], ceiling: int) -> int:
    """Return the largest number in 0..ceiling that fits, by bisection; -1 if not even 0 does.

    The gateway clamps `max_tokens` with it: `fits = lambda n: not ladder.draw(cost(n), …).shortfall_u`.
    """
    low, high = -1, ceiling
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
