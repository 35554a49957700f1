"""A router whose time and chance are the test's."""

from __future__ import annotations

import random

import pytest
from support.routing import HandClock

from serving.routing import Router


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def router(clock: HandClock) -> Router:
    return Router(clock, chance=random.Random(7))
