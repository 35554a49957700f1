"""Facets and sort keys of every document, in memory: loaded once, then kept up to date by revision.

Reading the change marker is the only cost when nothing changed. A `Snapshot` never changes, so any
number of threads may search in one while the next is made. It may be newer than the transaction that
asks, never older: a document that a query should not see any more is not in it.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from math import inf
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

from catalog.ground.marker import read_marker
from catalog.search import bitmaps
from catalog.search.document import Sort
from catalog.search.index import CHANGES, EPOCH

PRICE_CLASSES = ((0, "free"), (1_000_000, "to_1"), (5_000_000, "to_5"), (20_000_000, "to_20"))
"""Upper bounds in micro-yuan per million tokens: free, to ¥1, to ¥5, to ¥20; the rest is `over_20`."""
INFIX_TERMS_MAX = {True: 2_000, False: 60}
"""A run that more terms contain is searched at the start of terms only. The bound is lower where more
tokens follow, since all of them are looked up anew for each term."""

_ROWS = text(
    "SELECT doc, key, visible, facets, popularity, price_u_per_m, output_tokens_per_s,"
    " quality_bp, created_at_us, revision FROM search_doc WHERE revision > :revision"
)
_TERMS = text("SELECT id, term FROM search_term WHERE id > :last ORDER BY id")


def price_class(price_u_per_m: int | None) -> str:
    """Return the value of the facet `price`."""
    if price_u_per_m is None:
        return "unpriced"
    for bound, name in PRICE_CLASSES:
        if price_u_per_m <= bound:
            return name
    return "over_20"


@dataclass(frozen=True)
class Snapshot:
    """The columns at one revision. `facets[facet][value]` and `visible` are bitmaps of documents.

    `order[sort][doc]` is smaller for what comes first; what is unknown comes last (infinity).
    """

    epoch: int = -1
    revision: int = -1
    keys: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    visible: int = 0
    facets: dict[str, dict[str, int]] = field(default_factory=dict)
    order: dict[Sort, list[float]] = field(default_factory=dict)
    vocabulary: str = "\n"
    last_term: int = 0

    def containing(self, run: str, whole: bool) -> tuple[str, ...]:
        """Return the terms that contain `run` (or end with it, unless `whole`), not `run` itself."""
        wanted = run if whole else f"{run}\n"
        found: set[str] = set()
        at = self.vocabulary.find(wanted)
        while at >= 0:
            start = self.vocabulary.rfind("\n", 0, at) + 1
            end = self.vocabulary.find("\n", at)
            if not (whole and start == at):  # a prefix query finds those by itself
                found.add(self.vocabulary[start:end])
            if len(found) > INFIX_TERMS_MAX[whole]:
                return ()
            at = self.vocabulary.find(wanted, end)
        return tuple(sorted(found - {run}))


class Columns:
    """The newest snapshot; one per process and database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot = Snapshot()

    def current(self, session: Session) -> Snapshot:
        """Return a snapshot at least as new as what `session` sees."""
        epoch, revision = read_marker(session, EPOCH), read_marker(session, CHANGES)
        snapshot = self._snapshot
        if (snapshot.epoch, snapshot.revision) >= (epoch, revision):
            return snapshot
        with self._lock:
            if (self._snapshot.epoch, self._snapshot.revision) < (epoch, revision):
                fresh = self._snapshot.epoch != epoch
                base = Snapshot(epoch=epoch) if fresh else self._snapshot
                self._snapshot = _advance(session, base, revision)
            return self._snapshot


def _advance(session: Session, old: Snapshot, revision: int) -> Snapshot:
    rows = session.execute(_ROWS, {"revision": old.revision}).all()
    size = max([len(old.keys), *(row.doc + 1 for row in rows)])
    keys = old.keys + [""] * (size - len(old.keys))
    values = old.values + [_NONE] * (size - len(old.values))
    order = {sort: _grown(old.order.get(sort, []), size) for sort in _SORT_KEYS}
    changes = _Changes(size)
    for row in rows:
        now = f"{price_class(row.price_u_per_m)}\n{row.facets}"
        changes.note(row.doc, values[row.doc], now, bool(row.visible))
        keys[row.doc], values[row.doc] = row.key, now
        for sort, key in _SORT_KEYS.items():
            order[sort][row.doc] = key(row)
    terms = session.execute(_TERMS, {"last": old.last_term}).all()
    return Snapshot(
        epoch=old.epoch,
        revision=revision,
        keys=keys,
        values=values,
        visible=changes.applied_to_visible(old.visible),
        facets=changes.applied_to_facets(old.facets),
        order=order,
        vocabulary=old.vocabulary + "".join(f"{row.term}\n" for row in terms),
        last_term=terms[-1].id if terms else old.last_term,
    )


def _grown(column: list[float], size: int) -> list[float]:
    return column + [inf] * (size - len(column))


_NONE = ""


def _pairs(values: str) -> set[tuple[str, str]]:
    """Return the facet values of one document, which are remembered as text: a hundred thousand
    sets would keep the garbage collector busy."""
    if values == _NONE:
        return set()
    price, _, facets = values.partition("\n")
    found: dict[str, list[str]] = json.loads(facets)
    return {(facet, value) for facet, several in found.items() for value in several} | {
        ("price", price)
    }


def _descending(value: float | None) -> float:
    return inf if value is None else -value


_SORT_KEYS: dict[Sort, Any] = {
    "relevance": lambda row: -row.popularity,
    "popularity": lambda row: -row.popularity,
    "price": lambda row: inf if row.price_u_per_m is None else row.price_u_per_m,
    "speed": lambda row: _descending(row.output_tokens_per_s),
    "quality": lambda row: _descending(row.quality_bp),
    "newest": lambda row: -row.created_at_us,
}
"""Within one degree of relevance, the popular comes first."""


class _Changes:
    """What the changed documents leave and enter."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.left: dict[tuple[str, str], list[int]] = {}
        self.entered: dict[tuple[str, str], list[int]] = {}
        self.hidden: list[int] = []
        self.shown: list[int] = []

    def note(self, doc: int, before: str, after: str, visible: bool) -> None:
        if before != after:
            old, new = _pairs(before), _pairs(after)
            for pair in old - new:
                self.left.setdefault(pair, []).append(doc)
            for pair in new - old:
                self.entered.setdefault(pair, []).append(doc)
        (self.shown if visible else self.hidden).append(doc)

    def _changed(self, bits: int, entered: list[int], left: list[int]) -> int:
        gone = bitmaps.from_numbers(left, self.size)
        return (bits & ~gone) | bitmaps.from_numbers(entered, self.size)

    def applied_to_visible(self, visible: int) -> int:
        return self._changed(visible, self.shown, self.hidden)

    def applied_to_facets(self, facets: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        new = {facet: dict(values) for facet, values in facets.items()}
        for facet, value in self.left.keys() | self.entered.keys():
            pair = (facet, value)
            bits = new.setdefault(facet, {}).get(value, 0)
            new[facet][value] = self._changed(
                bits, self.entered.get(pair, []), self.left.get(pair, [])
            )
        return new
