"""The invariants of public money under a random walk, on both databases."""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support.ledger_machine import machine_on

from catalog.ground.database import Database

EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "10"))
STEPS = int(os.environ.get("LEDGER_STEPS", "30"))


def test_public_money_stays_exact(fresh_database: Callable[[], Database]) -> None:
    run_state_machine_as_test(
        machine_on(fresh_database),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Each try takes a second, so shrinking takes minutes: ask for it when a failure is studied.
            phases=[Phase.generate, *([Phase.shrink] if "LEDGER_SHRINK" in os.environ else [])],
            database=None,
        ),
    )
