"""`tokenmart ledger`: what it prints, and how it exits."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sqlalchemy import text
from support.ledger_world import World
from typer.testing import CliRunner, Result

from catalog.ground.database import Database
from catalog.ground.errors import BadRequest
from marketplace.cli.ledger import app, recost


@pytest.fixture
def ledger(sqlite_url: str) -> Database:
    """A ledger with one call of September 2026 in it."""
    database = Database(sqlite_url)
    world = World(database)
    wallet = world.account("wallet:a", 1_000)
    world.do(world.hold("c1", (wallet, 60)))
    world.do(world.settle("c1", [45], wallet=45, voucher=0))
    world.close()
    return database


def _run(database: Database, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", database.url], catch_exceptions=False)


def test_verify_says_exact_and_how_fast(ledger: Database) -> None:
    done = _run(ledger, "verify", "--format", "json")
    assert done.exit_code == 0
    (row,) = json.loads(done.stdout)
    assert (row["transfers"], row["events"], row["problems"]) == (4, 1, 0)
    assert "exact" in done.stderr


def test_verify_exits_1_and_names_what_is_off(ledger: Database) -> None:
    with ledger.session() as session:
        session.execute(text("UPDATE ledger_account SET cr_posted = 2000 WHERE code = 'wallet:a'"))
    done = _run(ledger, "verify")
    assert done.exit_code == 1
    assert "OFF: wallet:a" in done.stderr


def test_trial_balance_balances(ledger: Database) -> None:
    done = _run(ledger, "trial-balance", "--format", "json")
    assert done.exit_code == 0
    rows = {row["account"]: row for row in json.loads(done.stdout)}
    assert rows["wallet:a"]["balance"] == 955
    assert sum(row["balance"] for row in rows.values()) == 0
    assert "CNY: debits and credits are equal" in done.stderr


def test_export_is_csv_or_lines_of_json(ledger: Database) -> None:
    rows = list(csv.DictReader(_run(ledger, "export").stdout.splitlines()))
    assert [row["code"] for row in rows] == ["TOPUP", "USE", "USE", "ACCRUE"]
    lines = _run(ledger, "export", "--format", "json", "--since", "2026-09-01").stdout.splitlines()
    assert [json.loads(line)["amount"] for line in lines] == [1000, 60, 45, 45]
    assert _run(ledger, "export", "--until", "2026-09-01").stdout.count("\n") == 1


def test_an_archive_and_its_proof(ledger: Database, tmp_path: Path) -> None:
    done = _run(ledger, "archive", "--before", "2026-10-01", "--to", str(tmp_path))
    assert done.exit_code == 0
    assert len(list(tmp_path.glob("ledger-0001-before-*.jsonl.gz"))) == 1
    again = _run(ledger, "archive", "--before", "2026-10-01", "--to", str(tmp_path))
    assert "Nothing is older" in again.stderr
    proof = _run(ledger, "verify", "--archive", str(tmp_path), "--format", "json")
    (row,) = json.loads(proof.stdout)
    assert (row["archives"], row["transfers"], row["problems"]) == (1, 5, 0)


@pytest.mark.parametrize("day", ["2999-01-01", "October"])
def test_only_days_that_have_come_are_archived(ledger: Database, tmp_path: Path, day: str) -> None:
    with pytest.raises(BadRequest):
        _run(ledger, "archive", "--before", day, "--to", str(tmp_path))


def test_a_cost_is_recomputed_from_tokens_and_frozen_prices() -> None:
    prices = '{"input_u_per_m":1500000,"output_u_per_m":3000000}'
    # 3 x 1.5 + 1 x 3 = 7.5, rounded half up.
    assert recost(prices, (3, 0, 0, 1, 0), 0) == 8
    assert recost('{"input_u_per_m":0,"output_u_per_m":0,"image_u":5}', (0, 0, 0, 0, 0), 0) is None
