"""Tokens in PostgreSQL: three `tsvector` columns written by us, each with a GIN index.

Three columns rather than one with weights, because GIN keeps no weights: a query for words in the
name would have to read every document that has them anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlmodel import Session

from catalog.search.segment import Phrase
from catalog.search.sqlite import Tokens

POSITIONS_MAX = 256
"""How many positions PostgreSQL keeps for one token of one document."""

COLUMNS = {"name": "name_words", "lead": "lead_words", "all": "all_words"}


def _driver(session: Session) -> Any:
    return session.connection().connection.dbapi_connection


def insert(session: Session, rows: Iterable[tuple[int, Tokens]]) -> None:
    """Index documents that are not in the index."""
    copy = "COPY search_text (doc, name_words, lead_words, all_words) FROM STDIN"
    with _driver(session).cursor() as cursor, cursor.copy(copy) as sink:
        for doc, (name, summary, body) in rows:
            sink.write_row(
                (doc, _vector(name), _vector(name, summary), _vector(name, summary, body))
            )


def delete(session: Session, doc: int) -> None:
    """Forget one document; nothing happens when it is not in the index."""
    _driver(session).execute("DELETE FROM search_text WHERE doc = %s", (doc,))


def clear(session: Session) -> None:
    """Forget everything, the indexes too: `settle` makes them over all rows, ten times faster."""
    driver = _driver(session)
    driver.execute("TRUNCATE search_text")
    for column in COLUMNS.values():
        driver.execute(f"DROP INDEX IF EXISTS ix_search_text_{column}")


def settle(session: Session) -> None:
    """Make the indexes and let the planner know, after very many insertions."""
    driver = _driver(session)
    for column in COLUMNS.values():
        driver.execute(
            f"CREATE INDEX ix_search_text_{column} ON search_text USING gin ({column})"
            " WITH (fastupdate = off)"
        )
    driver.execute("ANALYZE search_text")


def match(session: Session, phrases: Sequence[Phrase], where: str) -> Iterable[Iterable[int]]:
    """Yield sets of documents in `where` (`name`, `lead` or `all`); what is in each of them matches."""
    expression = " & ".join(_expression(phrase) for phrase in phrases)
    statement = f"SELECT doc FROM search_text WHERE {COLUMNS[where]} @@ %s::tsquery"
    yield [row[0] for row in _driver(session).execute(statement, (expression,)).fetchall()]


def _vector(*parts: list[str]) -> str:
    positions: dict[str, list[str]] = {}
    position = 0
    for part in parts:
        for token in part:
            position += 1
            places = positions.setdefault(token, [])
            if len(places) < POSITIONS_MAX:
                places.append(str(position))
        position += 1  # a gap, so that no phrase reaches from one field into the next
    return " ".join(f"'{token}':{','.join(places)}" for token, places in positions.items())


def _expression(phrase: Phrase) -> str:
    starts = [phrase.tokens, *((other, *phrase.tokens[1:]) for other in phrase.alternatives)]
    return f"({' | '.join(_sequence(start, phrase.prefix) for start in starts)})"


def _sequence(sequence: Sequence[str], prefix: bool) -> str:
    quoted = [f"'{token}'" for token in sequence]
    if prefix:
        quoted[-1] += ":*"
    return f"({' <-> '.join(quoted)})"
