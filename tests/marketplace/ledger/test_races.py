"""The short form of `make prove-ledger-races`, on both databases."""

from __future__ import annotations

import pytest

from tests.proofs.ledger_races import race


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("kind", "processes", "threads"), [("sqlite", 2, 8), ("postgres", 3, 3)])
def test_racing_processes_that_are_killed_leave_an_exact_ledger(
    request: pytest.FixtureRequest, kind: str, processes: int, threads: int
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    result = race(kind, url, processes, threads, duration_s=5, seed=1)
    assert result.problems == []
    assert result.kills > 0
    assert result.report.events > 0
