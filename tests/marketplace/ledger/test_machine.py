"""The invariants of public money under a random walk, on both databases."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support.ledger_machine import machine_on

from catalog.ground.database import Database

EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "8"))
"""Walks on SQLite; PostgreSQL takes twice as long for one and has half as many."""
STEPS = int(os.environ.get("LEDGER_STEPS", "30"))


def test_public_money_stays_exact(
    request: pytest.FixtureRequest, fresh_database: Callable[[], Database]
) -> None:
    kind = request.node.callspec.params["fresh_database"]
    run_state_machine_as_test(
        machine_on(fresh_database),
        settings=settings(
            max_examples=EXAMPLES if kind == "sqlite" else EXAMPLES // 2,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Each try takes a second, so shrinking takes minutes: ask for it when a failure is studied.
            phases=[Phase.generate, *([Phase.shrink] if "LEDGER_SHRINK" in os.environ else [])],
            database=None,
        ),
    )
