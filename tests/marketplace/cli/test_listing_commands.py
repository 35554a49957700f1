"""A listing goes up and comes down by command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.ground.clock import now_us
from catalog.ground.database import Database
from catalog.ground.errors import Conflict
from marketplace.cli.listings import listing_app
from marketplace.members.organisations import create_organisation

SLUG = "acme/contract"
MANIFEST = """
tier = "park"
title_zh = "合同审查"
title_en = "Contract check"
summary_zh = "审查合同条款"
vertical = "legal"
licence = "MIT"
context_length = 8192
max_output_tokens = 512
"""


def _run(*words: str, by: str = "mei") -> str:
    acting = ["--by", by] if words[0] not in ("status", "list", "search", "verify") else []
    done = CliRunner().invoke(listing_app, [*words, *acting])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_listing_goes_up_and_comes_down(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENMART_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("TOKENMART_DATA_DIR", str(tmp_path))
    database = Database(sqlite_url)
    with database.session() as session:
        create_organisation(session, "acme", "Acme", now_us())
    database.dispose()
    manifest, card = tmp_path / "listing.toml", tmp_path / "card.md"
    manifest.write_text(MANIFEST, "utf-8")
    card.write_text("# 合同", "utf-8")

    _run("init", SLUG, "--from", str(manifest), "--card-zh", str(card))
    _run("submit", SLUG)
    with pytest.raises(Conflict, match="submitted"):
        _run("override", SLUG, "--reason", "mine")
    _run("override", SLUG, "--reason", "pilot", by="ops")
    _run("publish", SLUG)
    assert [row["slug"] for row in _json("search", "合同")] == [SLUG]
    _run("suspend", SLUG, "--reason", "complaint", by="ops")
    assert _json("search", "合同") == []
    _run("restore", SLUG, by="ops")
    _run("delist", SLUG, "--reason", "done")
    assert [row["event"] for row in _json("status", SLUG)] == [
        "create", "submit", "override", "list", "suspend", "restore", "delist"
    ]  # fmt: skip
    assert _json("verify")[0]["faults"] == 0


def _json(*words: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(_run(*words, "--format", "json"))
    return rows
