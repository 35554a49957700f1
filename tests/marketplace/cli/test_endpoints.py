"""Engines are put behind a listing, tuned, drained and taken away by command."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlmodel import select
from typer.testing import CliRunner

from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.marker import read_marker
from marketplace.cli.root import app
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint

LISTING = "acme/chat"


class Terminal:
    """Runs `tokenmart endpoint …` against one database, and looks what it did there."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.database = Database(url)

    def run(self, *words: str, env: dict[str, str] | None = None) -> Any:
        """Return the printed rows; raise what the command raised."""
        shown = words[0] in ("add", "list", "update")
        command = ["endpoint", *words, *(("--format", "json") if shown else ())]
        environment = {"TOKENMART_DATABASE_URL": self._url, **(env or {})}
        done = CliRunner().invoke(app, command, env=environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if shown else None

    def marker(self) -> int:
        with self.database.reading() as session:
            return read_marker(session, ENDPOINTS)

    def stored(self) -> Endpoint:
        with self.database.reading() as session:
            return session.exec(select(Endpoint)).one()


@pytest.fixture
def terminal(sqlite_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TOKENMART_DATA_DIR", str(tmp_path))
    return Terminal(sqlite_url)


def test_an_endpoint_promises_nothing_that_nobody_said(terminal: Terminal) -> None:
    (made,) = terminal.run("add", LISTING, "http://engine:8000/v1/")
    assert (made["listing"], made["url"]) == (LISTING, "http://engine:8000")
    stored = terminal.stored()
    assert (stored.model, stored.api_key, stored.state) == (LISTING, "", "up")
    assert (stored.weight, stored.priority, stored.provider) == (1, 0, "self")
    assert (stored.quantization, stored.data_collection, stored.zdr) == ("unknown", "allow", False)
    assert (stored.supports, stored.max_concurrency, stored.speaks) == (None, None, None)
    (row,) = terminal.run("list")
    assert (row["supports"], row["speaks"]) == ("all", "chat")


def test_everything_that_routing_asks_can_be_said(terminal: Terminal) -> None:
    words = [
        *("--model", "chat-7b", "--weight", "3", "--priority", "2", "--provider", "acme/turbo"),
        *("--quantization", "fp8", "--data-collection", "deny", "--zdr", "--max-concurrency", "16"),
        *("--supports", "tools", "--supports", "seed", "--speaks", "responses, messages"),
    ]
    secret = {"TOKENMART_ENGINE_KEY": "engine-key"}
    terminal.run("add", LISTING, "https://engine", *words, env=secret)
    stored = terminal.stored()
    assert (stored.model, stored.api_key) == ("chat-7b", "engine-key")
    (row,) = terminal.run("list", "--listing", LISTING)
    assert "engine-key" not in str(row)
    del row["id"], row["since"]
    assert row == {
        "listing": LISTING,
        "provider": "acme/turbo",
        "url": "https://engine",
        "state": "up",
        "weight": 3,
        "priority": 2,
        "max_concurrency": 16,
        "quantization": "fp8",
        "data_collection": "deny",
        "zdr": True,
        "supports": "seed, tools",
        "speaks": "chat, messages, responses",
    }
    assert terminal.run("list", "--listing", "acme/other") == []


def test_an_update_changes_what_is_given_and_gateways_hear_of_it(terminal: Terminal) -> None:
    secret = {"TOKENMART_ENGINE_KEY": "engine-key"}
    words = ("--zdr", "--supports", "tools", "--max-concurrency", "4", "--provider", "acme")
    (made,) = terminal.run("add", LISTING, "http://engine", *words, env=secret)
    before = terminal.marker()
    (row,) = terminal.run("update", made["id"], "--weight", "5", "--no-zdr", env={})
    assert terminal.marker() == before + 1
    assert (row["weight"], row["zdr"], row["supports"], row["max_concurrency"]) == (
        5, False, "tools", 4
    )  # fmt: skip
    assert terminal.stored().api_key == "engine-key"
    again = ("--supports", "all", "--max-concurrency", "0", "--url", "http://other/v1")
    (row,) = terminal.run("update", made["id"], *again)
    assert (row["supports"], row["max_concurrency"], row["url"]) == ("all", None, "http://other")
    assert (row["weight"], row["provider"]) == (5, "acme")
    terminal.run("update", made["id"], "--speaks", "messages")
    assert terminal.stored().speaks == '["messages"]'
    terminal.run("update", made["id"], "--speaks", "none")
    assert terminal.stored().speaks is None
    with pytest.raises(BadRequest, match="Nothing is to be changed"):
        terminal.run("update", made["id"])


def test_a_secret_in_the_environment_does_not_change_another_endpoint(terminal: Terminal) -> None:
    (made,) = terminal.run("add", LISTING, "http://engine", "--api-key", "first")
    other = {"TOKENMART_ENGINE_KEY": "second"}
    terminal.run("update", made["id"], "--weight", "2", env=other)
    assert terminal.stored().api_key == "first"


def test_drain_resume_remove(terminal: Terminal) -> None:
    (made,) = terminal.run("add", LISTING, "http://engine")
    for verb, state in (("drain", "draining"), ("resume", "up")):
        before = terminal.marker()
        terminal.run(verb, made["id"])
        assert (terminal.stored().state, terminal.marker()) == (state, before + 1)
    terminal.run("remove", made["id"])
    assert terminal.run("list") == []
    for verb in ("drain", "resume", "remove"):
        before = terminal.marker()
        with pytest.raises(NotFound, match=made["id"]):
            terminal.run(verb, made["id"])
        assert terminal.marker() == before


@pytest.mark.parametrize(
    ("words", "param"),
    [
        (("--provider", "Acme Inc"), "provider"),
        (("--provider", "a/b/c"), "provider"),
        (("--quantization", "fp7"), "quantization"),
        (("--data-collection", "maybe"), "data_collection"),
        (("--speaks", "gemini"), "speaks"),
    ],
)
def test_what_cannot_be_is_refused(terminal: Terminal, words: tuple[str, ...], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        terminal.run("add", LISTING, "http://engine", *words)
    assert caught.value.param == param
    assert terminal.run("list") == []


@pytest.mark.parametrize("url", ["engine:8000", "ftp://engine", "http://", "http:///v1"])
def test_an_address_is_an_address(terminal: Terminal, url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        terminal.run("add", LISTING, url)
    assert caught.value.param == "url"
