"""Tokens in SQLite: three FTS5 tables, for the name, for name and summary, for everything.

Three rather than one with columns, because FTS5 keeps no column apart: a query for words in the name
would walk through every document that has them anywhere. They hold no text (`content=''`) and no
lengths; order is not theirs to decide.

Such a table forgets a row only when it is told the very text that it was given (deleting by row number
needs SQLite 3.43), so `search_text` keeps the tokens, and they are handed back word for word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlmodel import Session

from catalog.search.segment import Phrase

Tokens = tuple[list[str], list[str], list[str]]
"""The tokens of name, summary and body."""

TABLES = {"name": "search_fts_name", "lead": "search_fts_lead", "all": "search_fts_all"}
GAP = "∎"
"""Stands between two fields, so that no phrase reaches across; no token of ours looks like it."""
CHUNK = 12
"""FTS5 looks at every alternative for every row: few at a time are faster than many at once."""


def _driver(session: Session) -> Any:
    return session.connection().connection.dbapi_connection


def insert(session: Session, rows: Iterable[tuple[int, Tokens]]) -> None:
    """Index documents that are not in the index."""
    texts = [(doc, [" ".join(part) for part in parts]) for doc, parts in rows]
    driver = _driver(session)
    driver.executemany(
        "INSERT INTO search_text (doc, name, summary, body) VALUES (?, ?, ?, ?)",
        [(doc, *parts) for doc, parts in texts],
    )
    for where, table in TABLES.items():
        driver.executemany(
            f"INSERT INTO {table} (rowid, words) VALUES (?, ?)",
            [(doc, _words(where, parts)) for doc, parts in texts],
        )


def delete(session: Session, doc: int) -> None:
    """Forget one document; nothing happens when it is not in the index."""
    driver = _driver(session)
    kept = driver.execute(
        "SELECT name, summary, body FROM search_text WHERE doc = ?", (doc,)
    ).fetchone()
    if kept is None:
        return
    for where, table in TABLES.items():
        driver.execute(
            f"INSERT INTO {table} ({table}, rowid, words) VALUES ('delete', ?, ?)",
            (doc, _words(where, kept)),
        )
    driver.execute("DELETE FROM search_text WHERE doc = ?", (doc,))


def clear(session: Session) -> None:
    """Forget everything, whatever state the index is in."""
    driver = _driver(session)
    driver.execute("DELETE FROM search_text")
    for table in TABLES.values():
        driver.execute(f"INSERT INTO {table} ({table}) VALUES ('delete-all')")


def settle(session: Session) -> None:
    """Merge what was inserted into one piece, after very many insertions."""
    for table in TABLES.values():
        _driver(session).execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")


def match(session: Session, phrases: Sequence[Phrase], where: str) -> Iterable[Iterable[int]]:
    """Yield sets of documents in `where` (`name`, `lead` or `all`); what is in each of them matches."""
    plain = [phrase for phrase in phrases if len(phrase.alternatives) <= CHUNK]
    if plain:
        yield _select(session, where, " AND ".join(map(_expression, plain)))
    for phrase in phrases:
        if len(phrase.alternatives) > CHUNK:
            yield _in_chunks(session, phrase, where)


def _in_chunks(session: Session, phrase: Phrase, where: str) -> list[int]:
    found = _select(session, where, _quoted(phrase.tokens, phrase.prefix))
    for start in range(0, len(phrase.alternatives), CHUNK):
        some = phrase.alternatives[start : start + CHUNK]
        found += _select(session, where, " OR ".join(_beginnings(phrase, some)))
    return found


def _select(session: Session, where: str, expression: str) -> list[int]:
    table = TABLES[where]
    statement = f"SELECT rowid FROM {table} WHERE {table} MATCH ?"
    return [row[0] for row in _driver(session).execute(statement, (expression,)).fetchall()]


def _words(where: str, parts: Sequence[str]) -> str:
    """Return what the table for `where` is given; it must stay the same for as long as rows do."""
    counted = {"name": 1, "lead": 2, "all": 3}[where]
    return f" {GAP} ".join(parts[:counted])


def _expression(phrase: Phrase) -> str:
    starts = [_quoted(phrase.tokens, phrase.prefix), *_beginnings(phrase, phrase.alternatives)]
    return f"({' OR '.join(starts)})"


def _beginnings(phrase: Phrase, alternatives: Sequence[str]) -> list[str]:
    return [_quoted((other, *phrase.tokens[1:]), phrase.prefix) for other in alternatives]


def _quoted(sequence: Sequence[str], prefix: bool) -> str:
    # Tokens are letters and digits by construction: there is no quote in them to be escaped.
    return f'"{" ".join(sequence)}"{"*" if prefix else ""}'
