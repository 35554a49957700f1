"""Answer a query: match words in the database, then filter, count, order and page in memory."""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sqlmodel import Session

from catalog.ground.errors import BadRequest
from catalog.search import bitmaps
from catalog.search.columns import Columns, Snapshot
from catalog.search.document import PAGE_MAX, SORTS, Page, Query
from catalog.search.index import store
from catalog.search.segment import Phrase, phrases, words

Position = tuple[int, float, int]
"""Where a document stands: its band, its sort key in it, its number."""


class SearchEngine:
    """Searches one database; keep one per process, it remembers the columns."""

    def __init__(self) -> None:
        self._columns = Columns()

    def search(self, session: Session, query: Query) -> Page:
        """Return one page; raise `BadRequest` for an order or a cursor that makes no sense.

        `session` comes from `Database.reading()`: what is remembered must have been committed.
        In the order of relevance, documents with every word in their name come first, then those with
        every word in name or summary, then the others; within each the popular before the rest.
        """
        _check(query)
        snapshot = self._snapshot(session)
        asked = phrases(query.text, snapshot.containing)
        if not asked and words(query.text):
            return Page([], 0, {}, None)
        matched = _matched(session, snapshot, asked, "all") & snapshot.visible
        matched &= _allowed(snapshot, query.scope)
        kept = matched & _allowed(snapshot, query.filters)
        after = _position(query) if query.cursor else None
        ranked = _ranked(snapshot, query, _bands(session, snapshot, asked, query, kept), after)
        shown = ranked[: query.limit]
        return Page(
            keys=[snapshot.keys[doc] for _, _, doc in shown],
            total=kept.bit_count(),
            facets=_counts(snapshot, query.filters, matched),
            next_cursor=_cursor(query, shown[-1]) if len(ranked) > query.limit else None,
        )

    def all_keys(self, session: Session, words_asked: str) -> list[str]:
        """Return the keys of every visible document that holds the words, in no order."""
        snapshot = self._snapshot(session)
        asked = phrases(words_asked, snapshot.containing)
        matched = _matched(session, snapshot, asked, "all") & snapshot.visible
        return [snapshot.keys[doc] for doc in bitmaps.to_numbers(matched)]

    def _snapshot(self, session: Session) -> Snapshot:
        if not session.connection().get_execution_options().get("readonly", False):
            raise ValueError("search in Database.reading(): a writer may still roll back")
        return self._columns.current(session)


def _check(query: Query) -> None:
    if query.sort not in SORTS:
        raise BadRequest(
            f"{query.sort!r} is not an order.", param="sort", remedy=f"Use {', '.join(SORTS)}."
        )
    if not 1 <= query.limit <= PAGE_MAX:
        raise BadRequest(f"A page holds 1 to {PAGE_MAX} results.", param="limit")
    if len(query.text) > 500:
        raise BadRequest("A query has at most 500 characters.", param="q")


def _matched(session: Session, snapshot: Snapshot, asked: list[Phrase], where: str) -> int:
    size = len(snapshot.keys)
    if not asked:
        return (1 << size) - 1
    matched = (1 << size) - 1
    for found in store(session).match(session, asked, where):
        matched &= bitmaps.from_numbers(found, size)
    return matched


def _allowed(snapshot: Snapshot, filters: Mapping[str, tuple[str, ...]]) -> int:
    allowed = snapshot.visible
    for facet, values in filters.items():
        column = snapshot.facets.get(facet, {})
        any_of = 0
        for value in values:
            any_of |= column.get(value, 0)
        allowed &= any_of
    return allowed


def _counts(
    snapshot: Snapshot, filters: Mapping[str, tuple[str, ...]], matched: int
) -> dict[str, dict[str, int]]:
    """Count every facet under the filters of all the others: ticking widens within one facet."""
    counts: dict[str, dict[str, int]] = {}
    for facet, column in snapshot.facets.items():
        others = {name: values for name, values in filters.items() if name != facet}
        base = matched & _allowed(snapshot, others)
        found = {value: (bits & base).bit_count() for value, bits in column.items()}
        present = {value: n for value, n in found.items() if n}
        counts[facet] = dict(sorted(present.items(), key=lambda item: (-item[1], item[0])))
    return counts


def _bands(
    session: Session, snapshot: Snapshot, asked: list[Phrase], query: Query, kept: int
) -> Iterator[int]:
    """Yield disjoint sets, the most relevant first; one set when relevance is not asked for."""
    rest = kept
    if asked and query.sort == "relevance":
        for where in ("name", "lead") if rest else ():
            band = rest & _matched(session, snapshot, asked, where)
            rest &= ~band
            yield band
    yield rest


def _ranked(
    snapshot: Snapshot, query: Query, bands: Iterator[int], after: Position | None
) -> list[Position]:
    """Return up to one more than a page holds, in order."""
    keys = snapshot.order.get(query.sort, [])
    ranked: list[Position] = []
    for band, bits in enumerate(bands):
        docs = bitmaps.to_numbers(bits)
        if after is not None:
            docs = [doc for doc in docs if (band, keys[doc], doc) > after]
        # Stable, and `docs` ascends: equal keys stay in the order of their numbers.
        first = heapq.nsmallest(query.limit + 1 - len(ranked), docs, key=keys.__getitem__)
        ranked += [(band, keys[doc], doc) for doc in first]
        if len(ranked) > query.limit:
            break
    return ranked


def _fingerprint(query: Query) -> str:
    asked = replace(query, cursor=None, limit=1)
    parts = [asked.text, asked.sort, sorted(asked.filters.items()), sorted(asked.scope.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _cursor(query: Query, last: Position) -> str:
    body = json.dumps([_fingerprint(query), *last])
    return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")


def _position(query: Query) -> Position:
    text = query.cursor or ""
    try:
        padded = text + "=" * (-len(text) % 4)
        fingerprint, band, key, doc = json.loads(base64.urlsafe_b64decode(padded))
        position = (int(band), float(key), int(doc))
    except (ValueError, TypeError, RecursionError):
        raise BadRequest("This is not a cursor of ours.", param="cursor") from None
    if fingerprint != _fingerprint(query):
        raise BadRequest(
            "The cursor belongs to another query.",
            param="cursor",
            remedy="Keep words, filters and order as they were, or start without a cursor.",
        )
    return position
