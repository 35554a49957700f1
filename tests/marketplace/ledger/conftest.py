"""A world for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.ledger_world import World

from catalog.ground.database import Database


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    """A ledger on each kind of database; when the test is done, it must still be exact."""
    world = World(database)
    yield world
    world.close()
    assert world.problems() == []
