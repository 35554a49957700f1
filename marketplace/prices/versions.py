"""Dated price versions as pure functions: what changes, said to people, and periods that must not overlap."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import msgspec

from catalog.ground.clock import to_iso
from catalog.ground.errors import Conflict
from catalog.ground.units import WHOLE_BP, format_yuan
from marketplace.prices.components import Components, OffPeak, Tier


class Change(NamedTuple):
    """One line of a diff; `text` is for people, `old_u` and `new_u` for programs (None: not a rate)."""

    field: str
    old_u: int | None
    new_u: int | None
    text: str


class Period(NamedTuple):
    """When a price version is in force: from `from_us` on, before `to_us` (None: until further notice)."""

    version_id: str
    from_us: int
    to_us: int | None


_NAMES = {
    "input_u_per_m": "input",
    "output_u_per_m": "output",
    "cache_read_u_per_m": "cached input",
    "cache_write_u_per_m": "cache writes",
    "reasoning_u_per_m": "reasoning",
    "request_u": "each call",
    "image_u": "each picture",
    "second_u": "each second",
}


def diff(old: Components | None, new: Components) -> tuple[Change, ...]:
    """Return what a new price changes, in the order of its fields; rates left out count as what they mean."""
    changes = []
    for where, before, after in _pairs(old, new):
        for field, name in _NAMES.items():
            old_u, new_u = _rate(before, field), _rate(after, field)
            if old_u != new_u:
                unit = " per million tokens" if field.endswith("per_m") else ""
                text = (
                    f"{where}{name}: {_yuan(old_u)} → {_yuan(new_u)}{unit}{_percent(old_u, new_u)}"
                )
                changes.append(Change(f"{where}{field}", old_u, new_u, text))
    windows = [_windows(() if old is None else old.off_peak), _windows(new.off_peak)]
    if windows[0] != windows[1]:
        changes.append(Change("off_peak", None, None, f"off-peak: {windows[0]} → {windows[1]}"))
    return tuple(changes)


def check_periods(periods: Iterable[Period]) -> None:
    """Raise Conflict when two versions would be in force at once, or one ends before it begins."""
    ordered = sorted(periods, key=lambda period: period.from_us)
    for period in ordered:
        if period.to_us is not None and period.to_us <= period.from_us:
            raise Conflict(
                f"Price {period.version_id} ends at {to_iso(period.to_us)}, before it begins.",
                rule="price.period",
            )
    for first, second in pairwise(ordered):
        if first.to_us is None or first.to_us > second.from_us:
            raise Conflict(
                f"Prices {first.version_id} and {second.version_id} are both in force at "
                f"{to_iso(second.from_us)}.",
                rule="price.overlap",
                remedy="End the first where the second begins.",
            )


def _pairs(
    old: Components | None, new: Components
) -> list[tuple[str, Components | Tier | None, Components | Tier | None]]:
    """Return the rates to compare: the base, then each tier by where it begins."""
    before = {} if old is None else {tier.over_input_tokens: tier for tier in old.tiers}
    after = {tier.over_input_tokens: tier for tier in new.tiers}
    tiers = [
        (f"over {bound:,} input tokens, ", before.get(bound), after.get(bound))
        for bound in sorted(before.keys() | after.keys())
    ]
    return [("", old, new), *tiers]


def _rate(part: Components | Tier | None, field: str) -> int | None:
    if part is None:
        return None
    values = msgspec.structs.asdict(part)
    rate: int | None = values.get(field)
    if rate is None and field in ("cache_read_u_per_m", "cache_write_u_per_m"):
        return part.input_u_per_m
    return part.output_u_per_m if rate is None and field == "reasoning_u_per_m" else rate


def _yuan(rate: int | None) -> str:
    return "none" if rate is None else format_yuan(rate)


def _percent(old_u: int | None, new_u: int | None) -> str:
    if not old_u or new_u is None:
        return ""
    tenths = (abs(new_u - old_u) * 1000 + old_u // 2) // old_u
    return f" ({'+' if new_u > old_u else '-'}{tenths // 10}.{tenths % 10} %)"


def _windows(windows: tuple[OffPeak, ...]) -> str:
    spans = [f"{w.begin} to {w.end} at {w.ratio_bp * 100 / WHOLE_BP:g} %" for w in windows]
    return ", ".join(spans) or "none"
