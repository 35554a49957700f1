"""What must be true of a programme beyond the form of its fields. Each check says what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from catalog.ground.errors import BadRequest
from catalog.ground.units import WHOLE_BP
from marketplace.vouchers.predicates import compile_check, is_date
from marketplace.vouchers.schema import ProgrammeRules


def check(rules: ProgrammeRules) -> None:
    """Raise BadRequest for the first thing that does not fit together."""
    for each in (_conditions, _funders, _budget, _window, _subsidy, _caps, _quota, _claims):
        each(rules)


def _refuse(rule: str, param: str, message: str, remedy: str) -> BadRequest:
    return BadRequest(message, rule=f"programme.{rule}", param=param, remedy=remedy)


def _conditions(rules: ProgrammeRules) -> None:
    named = [*rules.eligible, *rules.items]
    for part, group in (("eligible", rules.eligible), ("items", rules.items)):
        repeated = _repeated(rule.id for rule in group)
        if repeated:
            raise _refuse(
                "rule_id", part, f"Two rules are called {repeated!r}.", "Name each rule once."
            )
    optional = [tier.when for tier in rules.subsidy.tiers] + [cap.when for cap in rules.caps]
    for condition in [rule.when for rule in named] + [
        when for when in optional if when is not None
    ]:
        compile_check(condition)


def _funders(rules: ProgrammeRules) -> None:
    total = sum(funder.share_bp for funder in rules.funders)
    if total != WHOLE_BP:
        raise _refuse(
            "share_bp",
            "funders",
            f"The funders' shares sum to {total} basis points.",
            "They must sum to 10,000.",
        )
    repeated = _repeated(funder.funder for funder in rules.funders)
    if repeated:
        raise _refuse(
            "funder", "funders", f"Funder {repeated!r} is named twice.", "Add its shares."
        )
    if rules.on_funder_exhausted == "rescale" and len(rules.funders) < 2:
        raise _refuse(
            "on_funder_exhausted",
            "on_funder_exhausted",
            "A single funder's share cannot be rescaled to others.",
            "Choose stop or platform_covers.",
        )


def _budget(rules: ProgrammeRules) -> None:
    tranche, total = rules.budget.tranche_u, rules.budget.total_u
    if tranche == 0 or (tranche and total is not None and tranche > total):
        raise _refuse(
            "tranche",
            "budget.tranche_u",
            "A tranche must be more than 0 and at most the budget.",
            "Leave it out to issue grants whole.",
        )
    velocity = rules.anti_fraud.velocity_u_per_day
    if velocity == 0:
        raise _refuse(
            "velocity",
            "anti_fraud.velocity_u_per_day",
            "Nothing could ever be spent.",
            "Leave it out.",
        )
    if rules.subsidy.upto and (tranche, velocity) != (None, None):
        # Brackets are grants of their own width, drawn in order: no lease may widen one.
        raise _refuse(
            "tranche",
            "subsidy.upto",
            "A progressive scale is issued whole.",
            "Leave out budget.tranche_u and anti_fraud.velocity_u_per_day.",
        )


def _window(rules: ProgrammeRules) -> None:
    for name in ("issue", "use", "claim"):
        start, end = getattr(rules.window, name)
        for day in (start, end):
            if day is not None and not is_date(day):
                raise _refuse(
                    "window", f"window.{name}", f"{day} is not a day.", "Check the month."
                )
        if start and end and end < start:
            raise _refuse(
                "window",
                f"window.{name}",
                f"The {name} window ends before it begins.",
                "Swap them.",
            )


def _subsidy(rules: ProgrammeRules) -> None:
    subsidy = rules.subsidy
    if sum((subsidy.ratio_bp is not None, bool(subsidy.tiers), bool(subsidy.upto))) != 1:
        raise _refuse(
            "ratio", "subsidy", "The ratio is not clear.", "Give one of ratio_bp, tiers and upto."
        )
    if any(tier.when is None for tier in subsidy.tiers[:-1]):
        raise _refuse(
            "tiers",
            "subsidy.tiers",
            "A tier behind one for everybody is never reached.",
            "Put it last.",
        )
    ends = [bracket.spend_u for bracket in subsidy.upto]
    if ends and (
        None in ends[:-1] or any(b is not None and b <= (a or 0) for a, b in pairwise([0, *ends]))
    ):
        raise _refuse(
            "upto", "subsidy.upto", "The brackets do not rise.", "Order them by spend_u, null last."
        )
    ratios = [bracket.ratio_bp for bracket in subsidy.upto]
    if any(b > a for a, b in pairwise(ratios)) or 0 in ratios:
        # A grant per bracket is drawn in order; a higher ratio later would be worth waiting for.
        raise _refuse(
            "upto",
            "subsidy.upto",
            "Brackets must have falling ratios above 0.",
            "Leave out the rest.",
        )


def _caps(rules: ProgrammeRules) -> None:
    funders = {funder.funder for funder in rules.funders}
    for cap in rules.caps:
        if (cap.per == "group") != (cap.group is not None):
            raise _refuse("cap", "caps", "A cap per group names its group, no other does.", "")
        if (cap.per == "funder_org") != (cap.funder is not None):
            raise _refuse("cap", "caps", "A cap per funder and organisation names its funder.", "")
        if cap.with_related and cap.per in ("contract", "provider"):
            raise _refuse("cap", "caps", "Only organisations are counted with those related.", "")
        if cap.funder is not None and cap.funder not in funders:
            raise _refuse("cap", "caps", f"{cap.funder!r} does not fund this programme.", "")


def _quota(rules: ProgrammeRules) -> None:
    if (rules.kind == "free_quota") != (rules.quota is not None):
        raise _refuse("quota", "quota", "A free quota, and nothing else, has `quota`.", "")
    if rules.quota and (rules.mode != "instant" or rules.subsidy.ratio_bp != WHOLE_BP):
        raise _refuse(
            "quota",
            "subsidy",
            "A free quota pays at once and in full.",
            "mode instant, ratio_bp 10000.",
        )


def _claims(rules: ProgrammeRules) -> None:
    needs = {"contract": rules.anti_fraud.one_voucher_per == "contract"}
    needs["delivery_or_metering"] = rules.anti_fraud.needs_metering_log
    for evidence, needed in needs.items():
        if needed and evidence not in rules.evidence:
            raise _refuse(
                "evidence", "evidence", f"A rule rests on {evidence!r}.", "Add it to `evidence`."
            )
    if rules.anti_fraud.one_claimant_per_contract and rules.claimant != "either":
        raise _refuse(
            "claimant",
            "claimant",
            "One claimant per contract needs two who might.",
            "claimant either.",
        )


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
