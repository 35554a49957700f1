"""A ledger that an older version has written goes on, with its chain, its open holds and its proof."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text
from support.ledger_world import World

import marketplace.migrations
from catalog.ground.database import Database
from marketplace.ledger.operations import Done
from marketplace.ledger.writer import LedgerWriter
from marketplace.migrations.migrate import migrate

# What took the trigger's place before revision 0012.
_FOLLOWS = (
    "CREATE TRIGGER as_before AFTER INSERT ON ledger_batch BEGIN UPDATE ledger_lane SET "
    "next_seq = NEW.last_seq + 1, next_batch = NEW.n + 1, head = NEW.sha256 WHERE id = NEW.lane; END"
)


def _as_of(revision: str, url: str) -> Database:
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(Path(marketplace.migrations.__path__[0])))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return database


def test_a_ledger_of_revision_0011_goes_on(tmp_path: Path) -> None:
    database = _as_of("0011_speaks", f"sqlite:///{tmp_path / 'old.db'}")
    with database.session() as session:
        session.execute(text(_FOLLOWS))
    world = World(database)
    wallet = world.account("wallet:a", 100)
    world.apply(*(world.hold(f"c{n}", (wallet, 10)) for n in range(3)))
    world.do(world.settle("c0", [7], wallet=7, voucher=0))
    world.close()
    with database.session() as session:
        session.execute(text("DROP TRIGGER as_before"))

    migrate(database)
    assert inspect(database.engine).get_indexes("ledger_hold") == []
    writer = LedgerWriter(database.raw_connection, "new")

    async def go_on() -> Done:
        await writer.apply(world.hold("c3", (wallet, 10)))
        outcome = await writer.apply(world.settle("c1", [10], wallet=10, voucher=0))
        assert isinstance(outcome, Done)
        return outcome

    assert asyncio.run(go_on()) == Done(changed=True)
    writer.close()
    assert world.totals(wallet) == (20, 17, 100)
    assert world.problems() == []
    again = World(database, "new")
    again.do(again.release("c2"))
    again.close()
    assert again.problems() == []
    database.dispose()
