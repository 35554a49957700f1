"""The command line around vouchers: what two persons do, in one process and on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.voucher_story import Story
from typer.testing import CliRunner

from catalog.ground.database import Database
from catalog.ground.errors import Forbidden
from marketplace.ledger.chart import wallet

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command; returns its rows."""
    from marketplace.cli.root import app

    monkeypatch.setenv("TOKENMART_DATABASE_URL", database_url)
    # Each command opens the database anew; here they share one, which is closed at the end.
    monkeypatch.setattr("marketplace.settings.Database", lambda _url: database)
    runner = CliRunner()

    def run(*words: str) -> list[dict[str, Any]]:
        done = runner.invoke(app, [*words, "--format", "json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return list(json.loads(done.stdout))

    return run


def test_an_adjustment_takes_two_persons(run: Run, database: Database) -> None:
    story = Story(database)
    one, two = story.org("org-one", wallet_u=5_000_000), story.org("org-two", wallet_u=1)
    words = ("voucher", "adjust")
    why = ("--reason", "topped up the wrong one", "--tx", "adj_1")
    asked = run(*words, "propose", "wallet:org-one", "wallet:org-two", "1.50", *why, "--by", "anna")
    again = run(*words, "propose", "wallet:org-one", f"wallet:{two}", "1.50", *why, "--by", "anna")
    assert asked == again
    assert (asked[0]["from"], asked[0]["state"]) == (wallet(one), "proposed")
    with pytest.raises(Forbidden, match="second person"):
        run(*words, "book", "adj_1", "--by", "anna")
    assert run(*words, "book", "adj_1", "--by", "ben")[0]["approved_by"] == "ben"
    assert story.balance(wallet(two)) == 1_500_001
    assert [row["state"] for row in run(*words, "list")] == ["booked"]
    story.check()
