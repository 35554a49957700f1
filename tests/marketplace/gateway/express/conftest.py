"""What several tests of the compiled part ask for: its core, and a ledger with its charge writer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.compiled_charges import Booker, Ledger

from marketplace.gateway.express.lane import core_type

if TYPE_CHECKING:
    from marketplace.gateway.express._core import Core


@pytest.fixture
def core() -> type[Core]:
    """The compiled core, where it has been built."""
    found = core_type()
    if found is None:
        pytest.skip("the compiled core has not been built")
    return found


@pytest.fixture
def template(request: pytest.FixtureRequest) -> Path:
    """A migrated database, to be copied."""
    path: Path = request.getfixturevalue("_sqlite_template")
    return path


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    """A ledger that must still be exact when the test is done."""
    ledger = Ledger(sqlite_url)
    yield ledger
    ledger.close()


@pytest.fixture
def booker(ledger: Ledger) -> Iterator[Booker]:
    """The compiled writer in the ledger's lane for it."""
    booker = ledger.booker()
    yield booker
    booker.close()
