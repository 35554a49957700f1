"""The short form of `make prove-gateway-fuzz`: a few hundred cases, on the database that takes least."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from proofs.gateway_fuzz import environment, fuzz, report
from support.certificates import can_certify
from support.market import Market
from support.postgres import create_database

from catalog.ground.ids import ulid

SEED = 20261122
CASES = range(300)


@pytest.fixture
def market(tmp_path: Path, postgres_server: Callable[[str], str]) -> Iterator[Market]:
    """A marketplace of its own, because a fuzz looks at everything that its processes did."""
    url = create_database(postgres_server, f"fuzz_{ulid().lower()}")
    market = Market(tmp_path, url, environment(tmp_path, url))
    market.start()
    yield market
    market.stop()


def test_nothing_gives_way(market: Market) -> None:
    tally = uvloop.run(fuzz(market, SEED, CASES, time.monotonic() + 60, 0))
    assert report("postgresql", tally) == 0
    assert sum(tally.cases.values()) == len(CASES)
    assert tally.good
    assert tally.engine_asked
    assert tally.engine_asked_secure or not can_certify()
