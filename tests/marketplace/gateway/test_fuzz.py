"""The short form of `make prove-gateway-fuzz`: a few hundred cases on each database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from proofs.gateway_fuzz import environment, fuzz, report
from support.market import Market
from support.postgres import create_database

from catalog.ground.ids import ulid

SEED = 20261122
CASES = {"sqlite": range(300), "postgresql": range(300, 600)}


@pytest.fixture(params=["sqlite", "postgresql"])
def market(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Market]:
    """A marketplace of its own, because a fuzz looks at everything that its processes did."""
    url = f"sqlite:///{tmp_path / 'tokenmart.db'}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        url = create_database(server, f"fuzz_{ulid().lower()}")
    market = Market(tmp_path, url, environment(tmp_path, url))
    market.start()
    yield market
    market.stop()


def test_nothing_gives_way(market: Market) -> None:
    kind = market.database.kind
    tally = uvloop.run(fuzz(market, SEED, CASES[kind], time.monotonic() + 60, 0))
    assert report(kind, tally) == 0
    assert sum(tally.cases.values()) == len(CASES[kind])
    assert tally.good
    assert tally.engine_asked
