"""The migrations make exactly the tables that the code describes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel

import catalog
import marketplace
from catalog.ground.database import Database


def _load_all_tables() -> None:
    for package in (catalog, marketplace):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.rpartition(".")[2].startswith("tables"):
                importlib.import_module(module.name)


def _ours(difference: Any, elsewhere: set[Any]) -> bool:
    """Full-text search keeps tables that SQLModel does not describe, and Alembic overlooks `ddl_if`."""
    kind, *what = difference if isinstance(difference, tuple) else difference[0]
    if kind == "add_index" and what[0].name in elsewhere:
        return False
    return not (kind in ("remove_table", "remove_index") and "search" in str(what))


def _elsewhere(kind: str) -> set[Any]:
    """Return the names of the indexes that only the other kind of database has."""
    tables = SQLModel.metadata.tables.values()
    indexes = [index for table in tables for index in table.indexes]
    return {index.name for index in indexes if index.info.get("only_on", kind) != kind}


def test_migrations_and_tables_agree(database: Database) -> None:
    _load_all_tables()
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        differences = compare_metadata(context, SQLModel.metadata)
    elsewhere = _elsewhere(database.kind)
    assert [each for each in differences if _ours(each, elsewhere)] == []
