"""Conditions as data: a small closed language over facts, with no way to compute anything else.

    {"all": [P, …]}    {"any": [P, …]}    {"not": P}
    {"org.is_opc": true}                     equal
    {"org.size": {"in": ["micro", "small"]}} one of
    {"provider.pflops": {">=": 300}}         number or date: >= and <=
    {"org.region": {"under": "4403"}}        a region or a part of it
    {"listing.shelves": {"has": "sz-2025"}}  a set that contains it

Logic has three values. A fact that is not known makes neither a condition nor its opposite true, so
that `{"not": {"org.dishonest_3y": true}}` does not favour whoever has not been looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, NamedTuple

from catalog.ground.errors import BadRequest
from marketplace.vouchers.facts import Kind, kind_of
from marketplace.vouchers.terms import Facts, FactValue

Verdict = bool | None
Check = Callable[[Facts], Verdict]

_DEPTH = 8
_OPERATORS: dict[Kind, tuple[str, ...]] = {
    "text": ("in",),
    "flag": (),
    "number": (">=", "<="),
    "date": (">=", "<="),
    "region": ("in", "under"),
    "set": ("has",),
}


class Predicate(NamedTuple):
    """A compiled rule: `rule` is its id, `clause` its source, `text` its words for a person."""

    rule: str
    clause: str
    text: str
    check: Check

    def holds(self, facts: Facts) -> bool:
        """Return whether the facts are known to meet the rule."""
        return self.check(facts) is True


def compile_check(condition: Any, depth: int = 0) -> Check:
    """Return the condition as a function of facts; BadRequest naming what is wrong with it."""
    if not isinstance(condition, Mapping) or len(condition) != 1 or depth > _DEPTH:
        raise BadRequest(
            f"{condition!r} is not a condition.",
            rule="predicate.form",
            remedy=f"Write one key, all, any, not or a fact, at most {_DEPTH} levels deep.",
        )
    ((key, operand),) = condition.items()
    if key == "not":
        return _negate(compile_check(operand, depth + 1))
    if key in ("all", "any"):
        if not isinstance(operand, list | tuple) or not operand:
            raise BadRequest(f"{key!r} needs a list of conditions.", rule="predicate.form")
        return _join([compile_check(part, depth + 1) for part in operand], decisive=key == "any")
    return _compare(key, operand)


def _negate(check: Check) -> Check:
    def negated(facts: Facts) -> Verdict:
        verdict = check(facts)
        return None if verdict is None else not verdict

    return negated


def _join(checks: list[Check], *, decisive: bool) -> Check:
    """One `decisive` verdict decides; failing that, one unknown leaves the whole unknown."""

    def joined(facts: Facts) -> Verdict:
        verdict: Verdict = not decisive
        for check in checks:
            part = check(facts)
            if part is decisive:
                return decisive
            if part is None:
                verdict = None
        return verdict

    return joined


def _compare(fact: str, operand: Any) -> Check:
    kind = kind_of(fact)
    operator, value = "=", operand
    if isinstance(operand, Mapping):
        if len(operand) != 1:
            raise BadRequest(f"{fact}: give one operator.", rule="predicate.operator", param=fact)
        ((operator, value),) = operand.items()
        if operator not in _OPERATORS[kind]:
            known = ", ".join(_OPERATORS[kind]) or "equality only"
            raise BadRequest(
                f"{fact} is a {kind}: it has no operator {operator!r}.",
                rule="predicate.operator",
                param=fact,
                remedy=f"Use {known}.",
            )
    elif kind == "set":
        raise BadRequest(
            f"{fact} is a set.", rule="predicate.operator", param=fact, remedy='Write {"has": …}.'
        )
    values = value if operator == "in" else [value]
    if not isinstance(values, list | tuple) or not values:
        raise BadRequest(f"{fact}: 'in' needs a list.", rule="predicate.value", param=fact)
    for item in values:
        _check_value(fact, kind, item)
    return _operation(fact, operator, value)


def _operation(fact: str, operator: str, value: Any) -> Check:
    tests: dict[str, Callable[[Any], bool]] = {
        "=": lambda known: bool(known == value),
        "in": lambda known: known in value,
        ">=": lambda known: bool(known >= value),
        "<=": lambda known: bool(known <= value),
        "under": lambda known: str(known).startswith(value),
        "has": lambda known: value in known,
    }
    test = tests[operator]

    def check(facts: Facts) -> Verdict:
        known: FactValue = facts.get(fact)
        return None if known is None else test(known)

    return check


def _check_value(fact: str, kind: Kind, value: Any) -> None:
    fits = {
        "text": isinstance(value, str) and value != "",
        "flag": isinstance(value, bool),
        "number": isinstance(value, int) and not isinstance(value, bool),
        "date": isinstance(value, str) and is_date(value),
        "region": isinstance(value, str) and value.isdecimal() and len(value) in (2, 4, 6),
        "set": isinstance(value, str) and value != "",
    }[kind]
    if not fits:
        raise BadRequest(
            f"{fact} is a {kind} and cannot be compared with {value!r}.",
            rule="predicate.value",
            param=fact,
        )


def is_date(text: str) -> bool:
    """Return whether the text is a day of the calendar, `YYYY-MM-DD`."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
