"""Programmes as data: read a version, check it, seal it, and ask it what it says.

    JSON ─ load ─► Programme ─┬─ admit(facts, at)  who may be issued a voucher, and which rule says no
                              ├─ size(…)           how much, within every cap         (`caps`)
                              └─ terms(grant)      what the waterfall needs            (`terms`)

A version is its canonical JSON and the sha256 of that. It is never edited: a change is a new version,
and a grant keeps the version under which it was issued. There is no `eval` and no expression language;
`facts` lists everything that can be asked, `predicates` every way of asking.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError

from catalog.ground.clock import DAY_US, from_datetime, zone
from catalog.ground.errors import BadRequest
from catalog.ground.units import MAX_U, WHOLE_BP
from marketplace.vouchers.checks import check
from marketplace.vouchers.predicates import Predicate, compile_check
from marketplace.vouchers.schema import ProgrammeRules, Rule, Span
from marketplace.vouchers.split import Shares
from marketplace.vouchers.terms import Condition, Facts, GrantTerms, Refusal


class Issued(NamedTuple):
    """A grant as it was issued; instants in µs, `expires_at_us` exclusive, `remaining` as of now."""

    grant_id: str
    account_id: int
    effective_at_us: int
    expires_at_us: int
    remaining: int = 0
    bracket: int = 0
    item_specific: bool = False
    unit: str | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class Programme:
    """One sealed version: its rules, its bytes, their sha256, and its conditions ready to be asked."""

    rules: ProgrammeRules
    canonical: str
    sha256: str
    at_issue: tuple[Predicate, ...]
    at_use: tuple[Predicate, ...]

    @property
    def name(self) -> str:
        """`code@version`."""
        return f"{self.rules.code}@{self.rules.version}"

    @property
    def shares(self) -> Shares:
        """The funders and their basis points, for `split`."""
        return tuple((funder.funder, funder.share_bp) for funder in self.rules.funders)

    @property
    def step_u(self) -> int | None:
        """The most that a lease fills a grant with, micro-yuan; None where grants are issued whole."""
        limits = (self.rules.budget.tranche_u, self.rules.anti_fraud.velocity_u_per_day)
        return min((limit for limit in limits if limit is not None), default=None)

    def admit(self, facts: Facts, at_us: int) -> tuple[Refusal, ...]:
        """Return every rule that speaks against issuing a voucher now; empty means it may be issued."""
        refusals = [
            Refusal("", self.name, rule.rule, rule.clause, rule.text)
            for rule in self.at_issue
            if not rule.holds(facts)
        ]
        start_us, end_us = span_us(self.rules.window.issue)
        if not start_us <= at_us < end_us:
            text = f"Vouchers of {self.name} are issued {_words(self.rules.window.issue)}."
            refusals.append(Refusal("", self.name, "window.issue", self.rules.window.clause, text))
        if self.expiry_us(at_us) <= at_us:
            text = f"Vouchers of {self.name} are used {_words(self.rules.window.use)}."
            refusals.append(Refusal("", self.name, "window.use", self.rules.window.clause, text))
        return tuple(refusals)

    def claimable(self, at_us: int) -> bool:
        """Return whether the claim window is open."""
        start_us, end_us = span_us(self.rules.window.claim)
        return start_us <= at_us < end_us

    def expiry_us(self, issued_at_us: int) -> int:
        """Return when a grant issued at that instant lapses: its lifetime or the end of the use window.

        The lifetime counts whole days in Beijing time: a grant of one day lapses at the next midnight.
        """
        _, end_us = span_us(self.rules.window.use)
        days = self.rules.window.grant_ttl_days
        if days is None:
            return end_us
        day = datetime.fromtimestamp(issued_at_us // 1_000_000, zone).date() + timedelta(days=days)
        return min(end_us, _midnight_us(day))

    def brackets(self, amount_u: int) -> tuple[tuple[int, int, int], ...]:
        """Return how a grant of `amount_u` is issued: (bracket, ratio_bp, amount_u), one unless a scale.

        A progressive scale is one grant per bracket, each as large as its width times its ratio, so
        that the marginal ratio is exact without the request path knowing any total.
        """
        if not self.rules.subsidy.upto:
            return ((0, self.rules.subsidy.ratio_bp or 0, amount_u),)
        parts, below = [], 0
        for number, bracket in enumerate(self.rules.subsidy.upto):
            width = MAX_U if bracket.spend_u is None else bracket.spend_u - below
            size = min(amount_u, width * bracket.ratio_bp // WHOLE_BP)
            if size:
                parts.append((number, bracket.ratio_bp, size))
            amount_u -= size
            below = bracket.spend_u or below
        return tuple(parts)

    def terms(self, grant: Issued) -> GrantTerms:
        """Return what the waterfall needs to know of a grant of this version."""
        rules, subsidy, stack = self.rules, self.rules.subsidy, self.rules.stacking
        start_us, end_us = span_us(rules.window.use)
        scale = subsidy.upto
        return GrantTerms(
            grant_id=grant.grant_id,
            account_id=grant.account_id,
            programme=self.name,
            unit=grant.unit or (rules.quota.unit if rules.quota else "CNY"),
            free_quota=rules.quota is not None,
            ratio_bp=scale[grant.bracket].ratio_bp if scale else subsidy.ratio_bp or 0,
            tiers=tuple((_tier(tier.when), tier.ratio_bp) for tier in subsidy.tiers),
            base=subsidy.base,
            total_cap_bp=stack.total_ratio_bp,
            mode=rules.mode,
            stacking=stack.rule,
            stack_class=stack.stack_class,
            chain=self.name if scale else "",
            bracket=grant.bracket,
            priority=stack.priority if grant.priority is None else grant.priority,
            item_specific=grant.item_specific,
            effective_at_us=max(start_us, grant.effective_at_us),
            expires_at_us=min(end_us, grant.expires_at_us),
            remaining=grant.remaining,
            blocks_self_owned=rules.anti_fraud.self_owned == "block",
            blocks_related_party=rules.anti_fraud.related_party == "block",
            anti_fraud_clause=rules.anti_fraud.clause,
            conditions=self.at_use,
        )


def load(document: str | bytes) -> Programme:
    """Return the programme version in a JSON document; BadRequest says what is wrong and where."""
    raw = _parse(document)
    canonical = json.dumps(raw, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if any("\ud800" <= letter <= "\udfff" for letter in canonical):
        raise BadRequest("The text holds half a character.", rule="programme.form")
    try:
        rules = ProgrammeRules.model_validate_json(canonical)
    except ValidationError as error:
        raise _explain(error) from None
    check(rules)
    always = tuple(
        _predicate("eligible", rule) for rule in rules.eligible if rule.checked == "always"
    )
    items = tuple(_predicate("items", rule) for rule in rules.items) + _charges(rules)
    return Programme(
        rules=rules,
        canonical=canonical,
        sha256=sha256(canonical.encode()).hexdigest(),
        at_issue=tuple(_predicate("eligible", rule) for rule in rules.eligible),
        at_use=always + items,
    )


def span_us(span: Span) -> tuple[int, int]:
    """Return days (both included, Beijing time) as instants: from the first, before the second."""
    start, end = span
    return (
        0 if start is None else _midnight_us(date.fromisoformat(start)),
        MAX_U if end is None else _midnight_us(date.fromisoformat(end)) + DAY_US,
    )


def _midnight_us(day: date) -> int:
    return from_datetime(datetime(day.year, day.month, day.day, tzinfo=zone))


def _words(span: Span) -> str:
    start, end = span
    return f"from {start or 'the beginning'} to {end or 'further notice'}"


def _predicate(part: str, rule: Rule) -> Predicate:
    return Predicate(f"{part}.{rule.id}", rule.clause, rule.text, compile_check(rule.when))


def _tier(when: dict[str, Any] | None) -> Condition | None:
    return None if when is None else Predicate("subsidy.tiers", "", "", compile_check(when))


def _charges(rules: ProgrammeRules) -> tuple[Predicate, ...]:
    if not rules.exclude_charges:
        return ()
    check = compile_check({"not": {"listing.charge": {"in": list(rules.exclude_charges)}}})
    text = f"Charges for {', '.join(rules.exclude_charges)} are not subsidised."
    return (Predicate("items.exclude_charges", rules.subsidy.clause, text, check),)


def _parse(document: str | bytes) -> Any:
    def floats(text: str) -> NoReturn:
        raise BadRequest(
            f"{text} is not a whole number.",
            rule="programme.number",
            remedy="Amounts are micro-yuan and shares basis points: no decimals, no exponent.",
        )

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise BadRequest(
                f"The field {twice!r} is given twice.", rule="programme.form", param=twice
            )
        return made

    try:
        return json.loads(
            document, parse_float=floats, parse_constant=floats, object_pairs_hook=once
        )
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"This is not JSON: {error}.", rule="programme.form") from None


def _explain(error: ValidationError) -> BadRequest:
    faults = [
        {"path": ".".join(map(str, fault["loc"])), "message": fault["msg"]}
        for fault in error.errors(include_url=False)
    ]
    first = faults[0]
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    return BadRequest(
        f"{first['path']}: {first['message']}{more}.",
        rule="programme.schema",
        param=first["path"],
        remedy="Every field is described in marketplace.vouchers.schema.",
        details={"faults": faults},
    )
