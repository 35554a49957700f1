"""The index follows what is put, changed and removed, in the caller's transaction, and so do counts."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import text

from catalog.ground.database import Database
from catalog.ground.errors import BadRequest
from catalog.search import index
from catalog.search.document import SORTS, Document, Query, Sort
from catalog.search.engine import SearchEngine


def _document(key: str, name: str, body: str = "", **more: object) -> Document:
    return Document(key, name, "", body, **more)  # type: ignore[arg-type]


def _keys(database: Database, engine: SearchEngine, question: str, **more: object) -> list[str]:
    with database.reading() as session:
        return engine.search(session, Query(question, **more)).keys  # type: ignore[arg-type]


def test_a_changed_document_is_found_by_its_new_words_only(database: Database) -> None:
    engine = SearchEngine()
    with database.session() as session:
        index.put(session, _document("a", "短剧助手"))
    assert _keys(database, engine, "短剧") == ["a"]
    with database.session() as session:
        index.put(session, _document("a", "法律助手"))
    assert _keys(database, engine, "短剧") == []
    assert _keys(database, engine, "法律") == ["a"]
    with database.session() as session:
        index.remove(session, "a")
    assert _keys(database, engine, "法律") == []
    with database.session() as session:
        index.put(session, _document("a", "法律助手"))
    assert _keys(database, engine, "法律") == ["a"]


def test_what_is_rolled_back_was_never_there(database: Database) -> None:
    engine = SearchEngine()
    with pytest.raises(RuntimeError), database.session() as session:
        index.put(session, _document("a", "短剧"))
        raise RuntimeError
    assert _keys(database, engine, "短剧") == []


def test_a_writer_does_not_search(database: Database) -> None:
    with database.session() as session, pytest.raises(ValueError, match="reading"):
        SearchEngine().search(session, Query("短剧"))


def test_many_changes_leave_the_same_index_as_a_rebuild(database: Database) -> None:
    """Put, change and remove at random; an engine that saw every step and a new one agree."""
    chance = random.Random(3)
    words = ["短剧", "法律", "合同", "qwen", "llama", "translate"]
    engine, kept = SearchEngine(), dict[str, Document]()
    for _ in range(120):
        key = f"d{chance.randint(0, 15)}"
        with database.session() as session:
            if chance.random() < 0.3:
                index.remove(session, key)
                kept.pop(key, None)
            else:
                name, body = (
                    " ".join(chance.choices(words, k=2)),
                    "".join(chance.choices(words, k=4)),
                )
                facets = {"vertical": (chance.choice(("legal", "media")),)}
                kept[key] = _document(key, name, body, facets=facets)
                index.put(session, kept[key])
        if chance.random() < 0.3:
            _keys(database, engine, "短剧")
    for question in [*words, "法律 合同", ""]:
        with database.reading() as session:
            lived = engine.search(session, Query(question, limit=100))
            fresh = SearchEngine().search(session, Query(question, limit=100))
        assert lived == fresh
        wanted = {
            key
            for key, d in kept.items()
            if all(word in d.name or word in d.body for word in question.split())
        }
        assert set(lived.keys) == wanted
    with database.session() as session:
        index.rebuild(session, kept.values())
    assert set(_keys(database, engine, "", limit=100)) == set(kept)


def test_names_come_before_summaries_before_cards_and_the_popular_first(database: Database) -> None:
    with database.session() as session:
        index.put(session, Document("card", "x", "y", "合同", popularity=900))
        index.put(session, Document("lead", "x", "合同", "", popularity=500))
        index.put(session, Document("name", "合同", "", "", popularity=1))
        index.put(session, Document("loved", "合同", "", "", popularity=2))
    assert _keys(database, SearchEngine(), "合同") == ["loved", "name", "lead", "card"]


def test_facets_count_under_the_other_filters(database: Database) -> None:
    with database.session() as session:
        for number in range(12):
            facets = {
                "vertical": ("legal" if number % 2 else "media",),
                "task": ("chat", "code") if number % 3 else ("chat",),
            }
            index.put(session, _document(f"d{number}", "合同", facets=facets))
            index.set_price(session, f"d{number}", number * 1_000_000 or 0)
    with database.reading() as session:
        page = SearchEngine().search(
            session, Query("合同", filters={"vertical": ("legal",)}, limit=3)
        )
    assert page.total == 6
    assert page.facets["vertical"] == {"legal": 6, "media": 6}
    assert page.facets["task"] == {"chat": 6, "code": 4}
    assert page.facets["price"] == {"to_20": 3, "to_5": 2, "to_1": 1}


def test_pages_follow_each_other_in_every_order(database: Database) -> None:
    chance = random.Random(5)
    with database.session() as session:
        for number in range(23):
            document = _document(
                f"d{number}",
                "合同" if number % 2 else "x",
                "合同",
                popularity=chance.randint(0, 3),
                output_tokens_per_s=chance.choice((None, 5.0, 9.0)),
                quality_bp=chance.choice((None, 100)),
                created_at_us=chance.randint(0, 4),
            )
            index.put(session, document)
            if number % 3:
                index.set_price(session, document.key, number)
    engine = SearchEngine()
    for sort in SORTS:
        whole, seen = _whole_and_paged(database, engine, sort)
        assert seen == whole
        assert len(set(seen)) == 23


def _whole_and_paged(
    database: Database, engine: SearchEngine, sort: Sort
) -> tuple[list[str], list[str]]:
    seen, cursor = list[str](), None
    with database.reading() as session:
        whole = engine.search(session, Query("合同", sort=sort, limit=100)).keys
        while True:
            page = engine.search(session, Query("合同", sort=sort, limit=4, cursor=cursor))
            seen += page.keys
            cursor = page.next_cursor
            if cursor is None:
                return whole, seen


def test_a_cursor_of_another_hand_is_refused(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    for cursor in ("x", "é", "W10", "e30", "Ww", "W1tb" * 10_000):
        with database.reading() as session, pytest.raises(BadRequest):
            SearchEngine().search(session, Query("合同", cursor=cursor))
    database.dispose()


def test_sqlite_forgets_every_token_of_a_removed_document(sqlite_url: str) -> None:
    """The vocabulary of the FTS tables is empty again: nothing was deleted by words it did not have."""
    database = Database(sqlite_url)
    with database.session() as session:
        index.put(session, Document("a", "短剧 Qwen2.5", "微短剧", "transformer 法律"))
        index.put(session, Document("a", "法律", "合同", "x"))
        index.remove(session, "a")
        for where in ("name", "lead", "all"):
            table = f"search_fts_{where}"
            session.execute(text(f"CREATE VIRTUAL TABLE v_{where} USING fts5vocab({table}, row)"))
            assert session.execute(text(f"SELECT count(*) FROM v_{where}")).scalar_one() == 0
            session.execute(text(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')"))
    database.dispose()
