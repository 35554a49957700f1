"""Random batches on several lanes and breaking connections: each operation is told what arithmetic says."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, cast

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import text
from support.ledger_batches import Fails, Maker, Reference, Told
from support.ledger_world import World

from catalog.ground.database import Database
from catalog.ground.errors import TokenMartError
from marketplace.ledger import writer as writer_module
from marketplace.ledger.dialect import Dialect, dialect_of
from marketplace.ledger.operations import Operation
from marketplace.ledger.writer import LedgerWriter

EXAMPLES = int(os.environ.get("LEDGER_BATCHES", "60"))
"""Walks on SQLite; PostgreSQL has a quarter of them."""
FUNDS = {"wallet:a": 60, "grant:f": 30, "grant:g": 40}


def test_every_batch_does_what_its_operations_do_one_by_one(
    request: pytest.FixtureRequest,
    fresh_database: Callable[[], Database],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer_module, "_RECONNECT_S", 0)
    kind = request.node.callspec.params["fresh_database"]

    @settings(
        max_examples=EXAMPLES if kind == "sqlite" else EXAMPLES // 4 or 1,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # Shrinking takes minutes: ask for it when a failure is studied.
        phases=[Phase.generate, *([Phase.shrink] if "LEDGER_SHRINK" in os.environ else [])],
        database=None,
    )
    @given(st.data())
    def walk(data: st.DataObject) -> None:
        database = fresh_database()
        worlds = [World(database, f"lane-{number}") for number in range(2)]
        writer = LedgerWriter(database.raw_connection, "writer")
        try:
            _walk(data, worlds, writer)
        finally:
            writer.close()
            for world in worlds:
                world.close()
            database.dispose()

    walk()


class _Breaking:
    """A dialect whose connection breaks at COMMIT: before it was sent, or before it was answered."""

    class OperationalError(Exception):
        pass

    def __init__(self, dialect: Dialect, *, sent: bool) -> None:
        self._dialect, self._sent = dialect, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dialect, name)

    def commit(self, *, durable: bool) -> None:
        if self._sent:
            self._dialect.commit(durable=durable)
        raise self.OperationalError("the connection was lost")


def _over_breaking(writer: LedgerWriter, *, sent: bool) -> Callable[..., Sequence[object]]:
    """Return what lets the writer book a batch on a connection that breaks, and then on another."""

    def apply(*operations: Operation) -> Sequence[object]:
        writer._disconnect()
        dialect = dialect_of(writer._connect())
        writer._dialect = cast(Dialect, _Breaking(dialect, sent=sent))
        return writer._durably(list(operations))

    return apply


def _walk(data: st.DataObject, worlds: list[World], writer: LedgerWriter) -> None:
    funds = {worlds[0].account(code, fund): fund for code, fund in FUNDS.items()}
    wallets = set(list(funds)[:1])
    books = Reference(funds)
    maker = Maker(data, worlds[0], list(funds), wallets)
    for _ in range(data.draw(st.integers(1, 12), label="batches")):
        batch = maker.batch(books)
        world = data.draw(st.sampled_from(worlds), label="lane")
        if data.draw(st.integers(0, 3), label="breaks"):
            _agree(world.apply, books, batch)
        else:
            sent = data.draw(st.booleans(), label="sent")
            _agree(_over_breaking(writer, sent=sent), books, batch)
        for account in funds:
            assert world.totals(account) == books.totals(account)
        with world.database.reading() as session:
            held = session.connection().execute(text("SELECT tx FROM ledger_hold")).scalars()
            assert set(held) == books.open.keys()
    assert worlds[0].problems() == []


def _agree(
    apply: Callable[..., Sequence[object]], books: Reference, batch: list[Operation]
) -> None:
    try:
        expected = books.apply(batch)
    except Fails as why:
        if not isinstance(getattr(apply, "__self__", None), World):
            return  # the writer would look for who has spoiled the batch, and do the rest of it
        # Corrupt by the journal's word, or refused by an index.
        try:
            apply(*batch)
        except (TokenMartError, sqlite3.IntegrityError, psycopg.IntegrityError):
            return
        raise AssertionError(f"was applied: {why}") from why
    story = "".join(f"\n  {op} -> {told}" for op, told in zip(batch, expected, strict=True))
    note(f"by {apply}:{story}")
    told = [_told(outcome) for outcome in apply(*batch)]
    assert told == expected


def _told(outcome: object) -> Told:
    return cast(Told, type(outcome) if isinstance(outcome, TokenMartError) else outcome)
