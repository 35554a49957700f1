"""A running marketplace, and a bare ledger, for each kind of database."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from support.ledger_world import World
from support.market import Market, environment_of
from support.postgres import create_database

from catalog.ground.database import Database
from catalog.ground.ids import ulid


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def market(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """One running marketplace for each kind of database and test process."""
    data_dir = tmp_path_factory.mktemp("market")
    url = f"sqlite:///{data_dir / 'tokenmart.db'}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        url = create_database(server, f"market_{ulid().lower()}")
    market = Market(data_dir, url, environment_of(data_dir, url))
    market.start()
    yield market
    market.stop()
    assert market.problems() == []


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    """A ledger on each kind of database; when the test is done, it must still be exact."""
    world = World(database)
    yield world
    world.close()
    assert world.problems() == []


@pytest.fixture
def client(market: Market) -> Iterator[openai.OpenAI]:
    """The OpenAI SDK with the demo key, without retries."""
    with openai.OpenAI(
        base_url=f"{market.url}/v1", api_key=market.demo_key, max_retries=0
    ) as client:
        yield client
