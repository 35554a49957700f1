"""The command line of members, facts, prices and reports, as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog.ground.errors import TokenMartError


class Terminal:
    """Runs commands against one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "TOKENMART_DATABASE_URL": url,
            "TOKENMART_DATA_DIR": str(folder),
            "TOKENMART_ACTOR": "li",
        }

    def run(self, *words: str) -> Any:
        """Return what a command prints as JSON (or its text, when it prints none)."""
        from marketplace.cli.root import app

        done = CliRunner().invoke(app, list(words), env=self.environment)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if "--format" in words else done.stdout


@pytest.fixture
def terminal(sqlite_url: str, tmp_path: Path) -> Terminal:
    return Terminal(sqlite_url, tmp_path)


def test_from_an_organisation_to_its_key(terminal: Terminal) -> None:
    run, as_json = terminal.run, ("--format", "json")
    run("org", "create", "acme", "Acme 公司", *as_json)
    run("member", "add", "acme", "zhao", "--role", "owner", *as_json)
    run("project", "create", "acme", "shop", *as_json)
    words = ("--member", "zhao", "--project", "shop", "--daily", "1.5", "--cidr", "10.0.0.0/8")
    (made,) = run("key", "create", "acme", *words, *as_json)
    assert made["key"].startswith("tm-")
    (key,) = run("key", "list", "--org", "acme", *as_json)
    assert (key["member"], key["daily"], key["monthly"]) == ("zhao", "¥1.50", "")
    assert run("member", "list", "acme", *as_json)[0]["role"] == "owner"
    assert run("project", "list", "acme", *as_json)[0]["name"] == "shop"
    with pytest.raises(TokenMartError, match="last owner"):
        run("member", "role", "acme", "zhao", "dev")


def test_a_fact_takes_two_persons_and_one_document(terminal: Terminal) -> None:
    run, as_json = terminal.run, ("--format", "json")
    document = terminal.folder / "licence.pdf"
    document.write_bytes(b"a licence")
    other = terminal.folder / "other.pdf"
    other.write_bytes(b"another")
    run("org", "create", "acme", "Acme", *as_json)
    add = ("org", "fact", "add", "acme", "org.is_opc", "true", "--evidence", str(document))
    (made,) = run(*add, "--from", "2026-01-01", "--to", "2026-12-31", *as_json)
    assert (made["state"], made["from"], made["to"]) == ("waiting", "2026-01-01", "2026-12-31")
    with pytest.raises(TokenMartError, match="cannot verify"):
        run("org", "fact", "verify", made["id"])
    with pytest.raises(AssertionError, match="not the document"):
        run("org", "fact", "verify", made["id"], "--by", "wang", "--evidence", str(other))
    (waiting,) = run("org", "fact", "list", "acme", *as_json)
    assert waiting["state"] == "waiting"
    check = ("org", "fact", "verify", made["id"], "--by", "wang", "--evidence", str(document))
    assert run(*check, *as_json)[0]["verified_by"] == "wang"
    run("org", "create", "maker", "Maker", *as_json)
    run("org", "link", "add", "acme", "maker", "--kind", "family", *as_json)
    assert run("org", "link", "list", "--org", "maker", *as_json)[0]["first"] == "acme"


def test_a_price_is_seen_before_it_is_published(terminal: Terminal) -> None:
    run, as_json = terminal.run, ("--format", "json")
    price = terminal.folder / "prices.json"
    price.write_text('{"model": {"input_u_per_m": 600000, "output_u_per_m": 2000000}}')
    (draft,) = run("price", "draft", "import", str(price), "--prefix", "maker/", *as_json)
    words = ("maker/model", "--draft", draft["draft"])
    changes = run("price", "diff", *words, *as_json)
    assert {"field": "input_u_per_m", "old_u": None, "new_u": 600_000} in changes
    told = run("price", "publish", *words, "--reason", "first", "--yes")
    assert "input: none → ¥0.60" in told
    (version,) = run("price", "list", *as_json)
    assert version["listing"] == "maker/model"
    shown = json.loads(run("price", "show", version["version"]))
    assert shown["components"] == {"input_u_per_m": 600_000, "output_u_per_m": 2_000_000}
    assert run("price", "draft", "list", *as_json) == []


def test_reports_are_printed_and_written(terminal: Terminal) -> None:
    run, as_json = terminal.run, ("--format", "json")
    run("org", "create", "acme", "Acme", *as_json)
    assert run("report", "statement", "acme", "2026-01", *as_json)["cover"]["sums_agree"] is True
    assert "closing_u" in run("report", "statement", "acme", "2026-01")
    assert run("report", "owner", "acme", "2026-01", *as_json)["cover"]["gross_u"] == 0
    assert run("report", "anomalies", "2026-01", *as_json)["cover"]["flags"] == 0
    assert run("report", "focus", "acme", "2026-01", *as_json)["cover"]["rows"] == 0
    files = run("report", "burn", "--out", str(terminal.folder / "out"), *as_json)
    assert {Path(file["file"]).suffix for file in files} == {".xlsx", ".json", ".csv"}
    assert all(Path(file["file"]).exists() for file in files)
