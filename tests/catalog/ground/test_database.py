"""Both databases behave the same where we depend on it."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from catalog.ground.database import Database
from catalog.ground.errors import BadRequest


def _bump(database: Database, times: int) -> None:
    for _ in range(times):
        with database.session() as session:
            statement = "UPDATE tally SET n = n + 1 WHERE id = 1"
            session.execute(text(statement))


def test_writers_in_threads_wait_for_each_other(database: Database) -> None:
    with database.session() as session:
        session.execute(text("CREATE TABLE tally (id INTEGER PRIMARY KEY, n BIGINT)"))
        session.execute(text("INSERT INTO tally VALUES (1, 0)"))
    threads = [threading.Thread(target=_bump, args=(database, 20)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert session.execute(text("SELECT n FROM tally")).scalar_one() == 160


def test_an_error_inside_the_block_leaves_nothing(database: Database) -> None:
    with database.session() as session:
        session.execute(text("CREATE TABLE tally (id INTEGER PRIMARY KEY, n BIGINT)"))
    with pytest.raises(RuntimeError), database.session() as session:
        session.execute(text("INSERT INTO tally VALUES (1, 0)"))
        raise RuntimeError
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM tally")).scalar_one() == 0


@pytest.mark.parametrize("value", [2**70, "half \ud800", "nul \x00"])
def test_a_value_that_no_column_can_hold_is_the_requests_fault(
    database: Database, value: object
) -> None:
    kind = "BIGINT" if isinstance(value, int) else "TEXT"
    query = text(f"SELECT CAST(:value AS {kind})")
    if database.kind == "sqlite" and value == "nul \x00":
        return  # SQLite keeps it
    for opened in (database.session, database.reading):
        with pytest.raises(BadRequest, match="cannot be kept"), opened() as session:
            session.execute(query, {"value": value}).scalar_one()


def test_another_kind_of_database_is_refused_with_the_way_out() -> None:
    with pytest.raises(BadRequest, match="sqlite:///"):
        Database("mysql://localhost/x")
