"""The command line around vouchers: what two persons do, in one process and on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.voucher_story import Story, rules
from typer.testing import CliRunner

from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Forbidden
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


def test_a_contract_is_paid_by_invoice(run: Run, database: Database, tmp_path: Path) -> None:
    document = {
        **rules("tst-compute"),
        "kind": "compute",
        "mode": "reimburse",
        "claimant": "demander",
        "evidence": ["invoice"],
        "subsidy": {"ratio_bp": 3000},
    }
    story = Story(database)
    story.programme(document, fund_u=100_000_000)
    story.org("opc"), story.org("maker")
    scan = tmp_path / "invoice.pdf"
    scan.write_bytes(b"%PDF")
    on = ("--contract", "c1", "--provider", "maker")
    asked = run("voucher", "apply", "opc", "tst-compute", "30", *on, "--by", "opa")
    run("voucher", "approve", asked[0]["application"], "--by", "ben")
    words = ("voucher", "invoice")
    bill = ("--charge", "compute=50", "--evidence", f"invoice={scan}", "--tx", "inv_1")
    made = run(*words, "present", asked[0]["application"], "NO-7", *bill, "--by", "opa")
    assert (made[0]["provider"], made[0]["subsidised"]) == ("maker", "¥50.00")
    with pytest.raises(Forbidden, match="second person"):
        run(*words, "accept", "inv_1", "--by", "opa")
    assert run(*words, "accept", "inv_1", "--by", "ben")[0]["state"] == "accepted"
    assert [row["number"] for row in run(*words, "list")] == ["NO-7"]
    assert run("voucher", "list")[0]["used"] == "¥15.00"
    story.check()


def test_a_funder_gets_its_office(run: Run, database: Database) -> None:
    story = Story(database)
    story.programme(rules())
    story.org("city-office")
    assert run("programme", "payer", "city", "city-office") == [
        {
            "funder": "city",
            "level": "city",
            "organisation": "city-office",
            "programmes": "tst-token@1",
        }
    ]


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


def test_what_is_no_fact_is_told(run: Run) -> None:
    with pytest.raises(BadRequest, match="is not JSON"):
        run("voucher", "apply", "opc", "tst-token", "5", "--fact", "contract.paid=yes")
