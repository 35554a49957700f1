"""Scripted engines behind listings of the running marketplace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.upstream import Upstream, upstreams


@pytest.fixture(scope="session")
def _three() -> Iterator[list[Upstream]]:
    with upstreams(3) as running:
        yield running


@pytest.fixture
def engines(_three: list[Upstream]) -> Iterator[list[Upstream]]:
    """Three engines that answer as usual; a test that takes one down brings it back."""
    for engine in _three:
        engine.reset()
    yield _three
    for engine in _three:
        engine.go()


@pytest.fixture
def engine(engines: list[Upstream]) -> Upstream:
    """The first of them."""
    return engines[0]
