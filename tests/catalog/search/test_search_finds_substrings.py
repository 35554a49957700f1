"""What is found is what stands there: search against a plain scan, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.ground.database import Database
from catalog.search import index
from catalog.search.document import Document, Query
from catalog.search.engine import SearchEngine
from catalog.search.segment import INFIX_LENGTH, normalise, tokens, words

PIECES = [
    "短",
    "短剧",
    "剧本",
    "本",
    "剧",
    "法律",
    "律法",
    "ab",
    "abc",
    "cab",
    "b",
    "2",
    "25",
    "7b",
]
PIECES += [" ", "，", ".", "-", "Ａ", "é", "ガ", "한국", "𠀀𠀁", "AI", "transformer"]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
asked = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: str) -> Iterator[Database]:
    import shutil

    path = tmp_path_factory.mktemp("search") / "search.db"
    shutil.copy(_sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    yield database
    database.dispose()


def _scan(documents: list[Document], question: str) -> set[str]:
    wanted = words(normalise(question))
    found = set()
    for document in documents:
        fields = [normalise(x) for x in (document.name, document.summary, document.body)]
        if all(any(word in field for field in fields) for word in wanted):
            found.add(document.key)
    return found


def _searchable(question: str) -> bool:
    """Whether the scan's and the search's ideas agree: see the exceptions in `segment`."""
    for word in words(normalise(question)):
        found = tokens(word)
        if not found or not (word[0].isalnum() and word[-1].isalnum()):
            return False
        if word[0].isdigit() or (len(word) < INFIX_LENGTH and word[0].isascii()):
            return False
    return bool(words(question))


def _search(database: Database, engine: SearchEngine, question: str) -> set[str]:
    with database.reading() as session:
        return set(engine.search(session, Query(question, limit=100)).keys)


@given(
    st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=6), st.lists(asked, max_size=5)
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_that_a_scan_finds_is_missed(
    sqlite: Database, rows: list[tuple[str, str, str]], questions: list[str]
) -> None:
    documents = [Document(f"d{n}", *row) for n, row in enumerate(rows)]
    with sqlite.session() as session:
        index.rebuild(session, documents)
    engine = SearchEngine()
    for question in filter(_searchable, questions):
        assert _scan(documents, question) <= _search(sqlite, engine, question), question


FOUND = {
    "短剧": {"a"},
    "剧本": {"a"},
    "短本": set(),
    "短": {"a"},
    "former": {"b"},
    "trans": {"b"},
    "qwen2.5-7b": {"b"},
    "7b": {"b"},
    "ma": set(),
    "ＱＷＥＮ 短剧": set(),
    "QWEN 法律": {"b"},
    "cafe": {"c"},
    "的法": {"c"},
    "律师a": {"c"},
    "!!": set(),
    '" OR x*': set(),
    "' & |": set(),
}


def test_words_are_found_where_they_stand(database: Database) -> None:
    documents = [
        Document("a", "短剧本", "微短剧", ""),
        Document("b", "Qwen2.5-7B", "transformer 法律", "x27"),
        Document("c", "Café", "我的法", "律师a1"),
    ]
    with database.session() as session:
        for document in documents:
            index.put(session, document)
    engine = SearchEngine()
    assert {question: _search(database, engine, question) for question in FOUND} == FOUND


def test_no_phrase_reaches_from_one_field_into_the_next(database: Database) -> None:
    with database.session() as session:
        index.put(session, Document("a", "alpha beta", "gamma", "delta"))
    engine = SearchEngine()
    assert _search(database, engine, "alpha-beta") == {"a"}
    assert _search(database, engine, "beta-gamma") == set()
    assert _search(database, engine, "gamma-delta") == set()
