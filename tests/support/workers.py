"""The worker processes of a running marketplace, and a marketplace with several of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from support.market import Market, environment_of

from catalog.ground.ids import ulid


def workers_of(market: Market) -> set[int]:
    """Return the process ids of the workers, zombies not among them."""
    return children_of(market, b"marketplace.gateway.worker")


def children_of(market: Market, module: bytes) -> set[int]:
    """Return the process ids of the marketplace's children that run a module, zombies not among them."""
    assert market.process is not None
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == market.process.pid and module in command:
            found.add(int(folder.name))
    return found


@contextlib.contextmanager
def market_on_postgres(
    server: Callable[[str], str], data_dir: Path, **settings: str
) -> Iterator[Market]:
    """Run a marketplace on a database of its own; `settings` are environment variables."""
    name = f"market_{ulid().lower()}"
    with psycopg.connect(server("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = server(name)
    market = Market(data_dir, url, environment_of(data_dir, url, **settings))
    market.start()
    try:
        yield market
    finally:
        market.stop()
    assert market.problems() == []
