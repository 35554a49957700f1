"""The compiled charge writer on a ledger of its own, and a process that books with it until it is killed.

python -m support.compiled_charges PATH LANE CLEARING WALLET MAKER SEED FOLDER
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.ledger_world import T0, World, usage

from catalog.ground.database import Database
from catalog.ground.driver import connect
from catalog.ground.ids import ulid
from marketplace.ledger.accounts import open_lane
from marketplace.ledger.chart import Code
from marketplace.ledger.dialect import EVENT_COLUMNS, TRANSFER_COLUMNS
from marketplace.ledger.operations import Charge, Entry, Leg

_TABLES = {
    "ledger_transfer": ", ".join(TRANSFER_COLUMNS),
    "usage_event": ", ".join(EVENT_COLUMNS),
    "ledger_account": "id, code, rule, dr_pending, dr_posted, cr_pending, cr_posted",
    "ledger_batch": "lane, n, first_seq, last_seq, sha256",
    "ledger_lane": "id, name, next_seq, next_batch, head",
}


class Booker:
    """Sends charges to a `ChargeWriter` and knows what became of each.

    The compiled part is imported when it is needed, so that whoever only collects tests can do without.
    """

    def __init__(
        self, path: Path | str, lane: int, clearing: int, patience_s: float = 30.0
    ) -> None:
        from marketplace.gateway.express._core import ChargeWriter, Turn

        self.writer = ChargeWriter(str(path), lane, clearing, patience_s)
        self._turn = Turn
        self.outcomes: dict[int, str] = {}

    def send(self, charge: Charge) -> int:
        return self.writer.send(charge.tx, charge.legs, charge.entries, charge.usage, charge.at_us)

    def wait(self, numbers: Sequence[int], seconds: float = 60.0) -> list[str]:
        """Return the outcomes of these charges; every one of them is answered once."""
        deadline = time.monotonic() + seconds
        while not all(number in self.outcomes for number in numbers):
            assert time.monotonic() < deadline, "a charge was not answered"
            self.writer.wait(1.0)
            for number, outcome in self.writer.collect():
                assert number not in self.outcomes
                self.outcomes[number] = outcome
        return [self.outcomes[number] for number in numbers]

    def together(self, *charges: Charge) -> list[str]:
        """Book charges in one batch (up to 512): nobody writes before they are all there."""
        with self._turn():
            numbers = [self.send(charge) for charge in charges]
        return self.wait(numbers)

    def do(self, charge: Charge) -> str:
        """Book one."""
        return self.together(charge)[0]

    def close(self) -> None:
        self.writer.close()


def plain_charge(
    tx: str, wallet: int, clearing: int, maker: int, amount: int, **more: Any
) -> Charge:
    """Return what a call of `amount` leaves that one account pays, and the maker gets."""
    entry = Entry(Code.ACCRUE, clearing, maker, amount)
    row = usage(tx, amount, wallet=amount, **more)
    return Charge(tx, (Leg(wallet, amount, clearing),), (entry,), row, T0)


class Ledger:
    """A ledger on SQLite with a wallet of 1,000 and a lane for the compiled writer."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.world = World(self.database)
        with self.database.session() as session:
            self.lane = open_lane(session, "express")
        self.wallet = self.world.account("wallet:a", 1_000)

    @property
    def path(self) -> Path:
        """Where the database is."""
        return Path(self.database.url.removeprefix("sqlite:///"))

    def booker(self, patience_s: float = 30.0) -> Booker:
        return Booker(self.path, self.lane, self.world.clearing, patience_s)

    def charge(self, tx: str, amount: int = 1, **more: Any) -> Charge:
        world = self.world
        return plain_charge(tx, self.wallet, world.clearing, world.maker, amount, **more)

    def balanced(self, *legs: Leg) -> Charge:
        """Return a charge whose legs leave clearing again, whether they can be or not."""
        through = sum(leg.amount for leg in legs)
        entry = Entry(Code.ACCRUE, self.world.clearing, self.world.maker, through)
        return Charge("bad", legs, (entry,), usage("bad", through, wallet=through), T0)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        connection = self.database.raw_connection()
        try:
            return {
                table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
                for table, columns in _TABLES.items()
            }
        finally:
            connection.close()

    def ids(self) -> set[str]:
        return {row[0] for row in self.rows()["usage_event"]}

    def close(self) -> None:
        self.world.close()
        problems = self.world.problems()
        self.database.dispose()
        assert problems == []


def main() -> None:
    """Book charges in waves and tell of each that was answered `booked`, for ever."""
    path, *numbers, folder = sys.argv[1:]
    lane, clearing, wallet, maker, seed = map(int, numbers)
    connect(f"sqlite:///{path}").close()  # loads Python's SQLite
    booker, chance = Booker(path, lane, clearing), random.Random(seed)
    told = os.open(Path(folder) / "answered", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    (Path(folder) / f"ready-{seed}").touch()
    while True:
        ids = [f"gen_{ulid()}" for _ in range(chance.randrange(1, 40))]
        sent = [booker.send(plain_charge(tx, wallet, clearing, maker, 1)) for tx in ids]
        for tx, outcome in zip(ids, booker.wait(sent), strict=True):
            assert outcome == "booked"
            os.write(told, f"{tx}\n".encode())


if __name__ == "__main__":
    main()
