"""Write the index, in the transaction of whoever changes what is indexed.

Every document has a small number of its own (`doc`) that is never given to another one, so that sets
of documents are bitmaps. A document that is removed keeps its row, invisible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import ModuleType

from sqlalchemy import text
from sqlmodel import Session

from catalog.ground.marker import raise_marker
from catalog.search import postgres, sqlite
from catalog.search.document import Document
from catalog.search.segment import TOKENS_MAX, tokens, vocabulary_of
from catalog.search.sqlite import Tokens

CHANGES = "search"
"""The marker that is raised by every change; documents carry its value as their `revision`."""
EPOCH = "search_epoch"
"""The marker that is raised when everything was written anew."""
_BATCH = 2_000


def store(session: Session) -> ModuleType:
    """Return the module that keeps tokens in this session's database."""
    return sqlite if session.get_bind().dialect.name == "sqlite" else postgres


def put(session: Session, document: Document) -> None:
    """Index the document, in place of what was indexed under its key."""
    revision = raise_marker(session, CHANGES)
    parts = _tokens(document)
    digest = _digest(parts)
    known = session.execute(
        text("SELECT doc, visible, text_digest FROM search_doc WHERE key = :key"),
        {"key": document.key},
    ).first()
    doc = known.doc if known else _next_doc(session)
    if known and known.visible and known.text_digest == digest:
        _write_row(session, doc, document, digest, revision)
        return
    store(session).delete(session, doc)
    store(session).insert(session, [(doc, parts)])
    _learn(session, vocabulary_of(token for part in parts for token in part))
    _write_row(session, doc, document, digest, revision)


def remove(session: Session, key: str) -> None:
    """Forget the document; nothing happens when there is none."""
    revision = raise_marker(session, CHANGES)
    hidden = session.execute(
        text(
            "UPDATE search_doc SET visible = 0, revision = :revision"
            " WHERE key = :key AND visible = 1 RETURNING doc"
        ),
        {"key": key, "revision": revision},
    ).first()
    if hidden:
        store(session).delete(session, hidden.doc)


def set_price(session: Session, key: str, price_u_per_m: int | None) -> None:
    """Tell what `key` costs, for order and for the facet; None takes the price away.

    `price_u_per_m` is micro-yuan per million tokens, input and output blended as the caller sees fit.
    It is remembered whether or not the document is there yet.
    """
    given = {"key": key, "price": price_u_per_m, "revision": raise_marker(session, CHANGES)}
    session.execute(
        text(
            "INSERT INTO search_price (key, price_u_per_m) VALUES (:key, :price)"
            " ON CONFLICT (key) DO UPDATE SET price_u_per_m = excluded.price_u_per_m"
        ),
        given,
    )
    session.execute(text(f"{_TAKE_PRICE}, revision = :revision WHERE key = :key"), given)


def set_popularity(session: Session, counts: Mapping[str, int]) -> None:
    """Tell how often documents are used, by key; those left out keep what they had."""
    revision = raise_marker(session, CHANGES)
    statement = text(
        "UPDATE search_doc SET popularity = :count, revision = :revision WHERE key = :key"
    )
    rows = [{"key": key, "count": n, "revision": revision} for key, n in counts.items()]
    if rows:
        session.execute(statement, rows)


def rebuild(session: Session, documents: Iterable[Document]) -> int:
    """Write the whole index anew and return how many documents it holds. Prices are kept."""
    revision = raise_marker(session, CHANGES)
    raise_marker(session, EPOCH)
    tokens_store = store(session)
    tokens_store.clear(session)
    session.execute(text("DELETE FROM search_doc"))
    session.execute(text("DELETE FROM search_term"))
    vocabulary: set[str] = set()
    doc = 0
    for batch in _batches(documents):
        texts: list[tuple[int, Tokens]] = []
        rows = []
        for document in batch:
            parts = _tokens(document)
            vocabulary |= vocabulary_of(token for part in parts for token in part)
            texts.append((doc, parts))
            rows.append(_row(doc, document, _digest(parts), revision))
            doc += 1
        tokens_store.insert(session, texts)
        session.execute(text(_UPSERT), rows)
    session.execute(text(_TAKE_PRICE))
    _learn(session, vocabulary)
    tokens_store.settle(session)
    return doc


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    source = iter(documents)
    while batch := list(islice(source, _BATCH)):
        yield batch


_COLUMNS = (
    "doc, key, visible, facets, text_digest, popularity, output_tokens_per_s, quality_bp,"
    " created_at_us, revision"
)
_VALUES = (
    ":doc, :key, 1, :facets, :digest, :popularity, :speed, :quality, :created_at_us, :revision"
)
_TAKE_PRICE = (
    "UPDATE search_doc SET price_u_per_m ="
    " (SELECT price_u_per_m FROM search_price WHERE search_price.key = search_doc.key)"
)
_UPSERT = (
    f"INSERT INTO search_doc ({_COLUMNS}) VALUES ({_VALUES})"
    " ON CONFLICT (doc) DO UPDATE SET visible = 1, facets = excluded.facets,"
    " text_digest = excluded.text_digest, popularity = excluded.popularity,"
    " output_tokens_per_s = excluded.output_tokens_per_s, quality_bp = excluded.quality_bp,"
    " created_at_us = excluded.created_at_us, revision = excluded.revision"
)


def _row(doc: int, document: Document, digest: str, revision: int) -> dict[str, object]:
    facets = {facet: list(values) for facet, values in document.facets.items() if values}
    return {
        "doc": doc,
        "key": document.key,
        "facets": json.dumps(facets, ensure_ascii=False),
        "digest": digest,
        "popularity": document.popularity,
        "speed": document.output_tokens_per_s,
        "quality": document.quality_bp,
        "created_at_us": document.created_at_us,
        "revision": revision,
    }


def _write_row(session: Session, doc: int, document: Document, digest: str, revision: int) -> None:
    row = _row(doc, document, digest, revision)
    session.execute(text(_UPSERT), row)
    session.execute(text(f"{_TAKE_PRICE} WHERE doc = :doc"), {"doc": doc})


def _next_doc(session: Session) -> int:
    highest = session.execute(text("SELECT max(doc) FROM search_doc")).scalar()
    return 0 if highest is None else int(highest) + 1


def _tokens(document: Document) -> Tokens:
    name, summary = tokens(document.name), tokens(document.summary)
    room = max(0, TOKENS_MAX - len(name) - len(summary))
    return name, summary, tokens(document.body)[:room]


def _digest(parts: Tokens) -> str:
    joined = "\n".join(" ".join(part) for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()


def _learn(session: Session, vocabulary: set[str]) -> None:
    rows = [{"term": term} for term in sorted(vocabulary)]
    if rows:
        statement = text("INSERT INTO search_term (term) VALUES (:term) ON CONFLICT DO NOTHING")
        session.execute(statement, rows)
