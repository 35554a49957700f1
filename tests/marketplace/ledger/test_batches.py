"""Random batches on two lanes, some of them sent again: each operation is told what arithmetic says."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import cast

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import text
from support.ledger_batches import Fails, Maker, Reference, Told
from support.ledger_world import World

from catalog.ground.database import Database
from catalog.ground.errors import TokenMartError
from marketplace.ledger.operations import Operation

EXAMPLES = int(os.environ.get("LEDGER_BATCHES", "60"))
"""Walks on SQLite; PostgreSQL has a quarter of them."""
FUNDS = {"wallet:a": 60, "wallet:b": 30, "grant:g": 40}


def test_every_batch_does_what_its_operations_do_one_by_one(
    request: pytest.FixtureRequest, fresh_database: Callable[[], Database]
) -> None:
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
        try:
            _walk(data, worlds)
        finally:
            for world in worlds:
                world.close()
            database.dispose()

    walk()


def _walk(data: st.DataObject, worlds: list[World]) -> None:
    funds = {worlds[0].account(code, fund): fund for code, fund in FUNDS.items()}
    wallets = set(list(funds)[:2])
    books = Reference(funds)
    maker = Maker(data, worlds[0], list(funds), wallets)
    for _ in range(data.draw(st.integers(1, 12), label="batches")):
        batch = maker.batch(books)
        world = data.draw(st.sampled_from(worlds), label="lane")
        _agree(world, books, batch, again=False)
        if data.draw(st.integers(0, 3), label="lost") == 0:
            # As if the connection had broken: just after COMMIT, or (where it failed) before.
            _agree(world, books, batch, again=True)
        for account in funds:
            assert world.totals(account) == books.totals(account)
        with world.database.reading() as session:
            held = session.connection().execute(text("SELECT tx FROM ledger_hold")).scalars()
            assert set(held) == books.open.keys()
    assert worlds[0].problems() == []


def _agree(world: World, books: Reference, batch: list[Operation], *, again: bool) -> None:
    try:
        expected = books.apply(batch, again=again)
    except Fails as why:
        # Corrupt by the journal's word, or refused by an index.
        try:
            world.apply(*batch, again=again)
        except (TokenMartError, sqlite3.IntegrityError, psycopg.IntegrityError):
            return
        raise AssertionError(f"was applied: {why}") from why
    story = "".join(f"\n  {op} -> {told}" for op, told in zip(batch, expected, strict=True))
    note(f"on lane {world.lane}, again={again}:{story}")
    told = [_told(outcome) for outcome in world.apply(*batch, again=again)]
    assert told == expected


def _told(outcome: object) -> Told:
    return cast(Told, type(outcome) if isinstance(outcome, TokenMartError) else outcome)
