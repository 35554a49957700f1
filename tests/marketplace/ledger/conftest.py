"""Databases of their own for those who need many."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psycopg
import pytest

from catalog.ground.database import Database
from catalog.ground.ids import ulid


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_database(request: pytest.FixtureRequest) -> Iterator[Callable[[], Database]]:
    """A function that returns a migrated, empty database; the one before it is gone then."""
    made = _copies_of_sqlite if request.param == "sqlite" else _copies_of_postgres
    copies = made(request)
    yield lambda: next(copies)
    copies.close()


def _copies_of_sqlite(request: pytest.FixtureRequest) -> Generator[Database]:
    template = request.getfixturevalue("_sqlite_template")
    folder: Path = request.getfixturevalue("tmp_path")
    while True:
        path = folder / f"{ulid()}.db"
        shutil.copy(template, path)
        yield Database(f"sqlite:///{path}")
        for left in folder.glob(f"{path.name}*"):
            left.unlink()


def _copies_of_postgres(request: pytest.FixtureRequest) -> Generator[Database]:
    template = request.getfixturevalue("_postgres_template")
    server: Callable[[str], str] = request.getfixturevalue("postgres_server")
    with psycopg.connect(server("postgres"), autocommit=True) as connection:
        while True:
            name = f"t_{ulid().lower()}"
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            try:
                yield Database(server(name))
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
