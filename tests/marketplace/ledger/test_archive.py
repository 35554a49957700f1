"""Closed months leave the journal, and the ledger stays proven: from their totals, or from their rows."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from support.ledger_world import T0, World

from catalog.ground.errors import Conflict, LedgerCorrupt, NotFound
from marketplace.ledger import archive as archive_module
from marketplace.ledger.archive import archive, prune
from marketplace.ledger.balances import export, trial_balance
from marketplace.ledger.operations import Done, Outcome
from marketplace.ledger.verify import verify

MONTH = 30 * 86_400_000_000
CUT = T0 + MONTH


def _month(world: World, start_us: int, name: str, wallet: int, grant: int) -> None:
    for number in range(4):
        tx, at_us = f"{name}{number}", start_us + number
        world.do(world.hold(tx, (grant, 30), (wallet, 70), at_us=at_us))
        world.do(world.settle(tx, [20, 40], voucher=20, wallet=40, at_us=at_us))


@pytest.fixture
def accounts(world: World) -> tuple[int, int]:
    """A wallet and a grant, after one month; a hold of it is settled in the next, by another lane."""
    wallet, grant = world.account("wallet:a", 10_000), world.account("grant:g", 5_000)
    _month(world, T0, "sep", wallet, grant)
    world.do(world.hold("late", (wallet, 9), at_us=CUT - 1))
    world.do(world.hold("gone", (wallet, 9), at_us=CUT - 1))
    other = World(world.database)
    other.do(other.release("gone", expired=True, at_us=CUT + 1))
    other.close()
    world.do(world.settle("late", [7], wallet=7, voucher=0, at_us=CUT + 2))
    _month(world, CUT + 10, "oct", wallet, grant)
    return wallet, grant


def _count(world: World, table: str) -> int:
    with world.database.reading() as session:
        return int(session.connection().execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_an_archived_month_is_proven_by_its_totals_and_by_its_rows(
    world: World, accounts: tuple[int, int], tmp_path: Path
) -> None:
    before = trial_balance(world.database)
    rows = _count(world, "ledger_transfer")
    made = archive(world.database, CUT, tmp_path)
    assert made is not None
    assert made.events == 4
    assert [half[:2] for half in made.open] == [("gone", 0), ("late", 0)]
    assert _count(world, "ledger_transfer") == rows - made.transfers + 1, "its seal came instead"
    assert trial_balance(world.database) == before
    short, whole = verify(world.database), verify(world.database, archive_dir=tmp_path)
    assert short.problems == whole.problems == []
    assert (whole.transfers, whole.events) == (rows + 1, 9)
    assert short.transfers == rows + 1 - made.transfers
    assert (short.archives, short.heads) == (1, whole.heads)

    _month(world, CUT + MONTH, "nov", *accounts)
    again = archive(world.database, CUT + MONTH, tmp_path)
    assert again is not None
    assert again.previous == made.seal
    assert again.events == 5
    assert verify(world.database).problems == []
    assert verify(world.database, archive_dir=tmp_path).events == 13
    assert archive(world.database, CUT + MONTH, tmp_path) is None


def test_an_archived_post_still_counts_once(
    world: World, accounts: tuple[int, int], tmp_path: Path
) -> None:
    wallet, _ = accounts
    assert world.do(world.post("fund:wallet:a", world.bank, wallet, 10_000)) == Done(changed=False)
    archive(world.database, CUT, tmp_path)
    left = world.left(wallet)
    assert world.do(world.post("fund:wallet:a", world.bank, wallet, 10_000)) == Done(changed=False)
    assert world.left(wallet) == left


@pytest.mark.parametrize("charged", [False, True], ids=["settled", "charged"])
def test_an_archived_post_counts_once_beside_a_call_that_moved_nothing(
    world: World, tmp_path: Path, charged: bool
) -> None:
    wallet = world.account("wallet:a", 100)
    if not charged:
        world.do(world.hold("c1"))
    free = world.charge("c1") if charged else world.settle("c1", [])
    post = world.post("p1", world.bank, wallet, 10)
    world.apply(post, free)
    archive(world.database, CUT, tmp_path)
    assert world.do(post) == Done(changed=False)
    assert world.left(wallet) == 110


def test_only_what_is_sealed_can_be_deleted(
    world: World, accounts: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "prune", lambda _: 0)
    made = archive(world.database, CUT, tmp_path)
    assert made is not None
    for table in ("ledger_transfer", "usage_event", "ledger_batch"):
        with pytest.raises(DatabaseError, match="append-only"), world.database.session() as session:
            session.execute(text(f"DELETE FROM {table}"))
    for table in ("ledger_archive", "ledger_archived_lane", "ledger_rollup", "ledger_archived_tx"):
        for verb in (f"DELETE FROM {table}", f"UPDATE {table} SET {_any_column(table)}"):
            with pytest.raises(DatabaseError, match="append-only"), world.database.session() as s:
                s.execute(text(verb))
    # A crash before or in the middle of pruning: the rows are still there, and are not counted twice.
    assert verify(world.database).problems == []
    before = trial_balance(world.database)
    monkeypatch.setattr(archive_module, "_PRUNED", 3)
    with world.database.session() as session:
        lane, last_seq = made.lanes[0][0], 5
        session.execute(
            text(f"DELETE FROM ledger_transfer WHERE lane = {lane} AND seq <= {last_seq}")
        )
    assert verify(world.database).problems == []
    assert prune(world.database) > 0
    assert prune(world.database) == 0
    assert trial_balance(world.database) == before


def _any_column(table: str) -> str:
    return "tx = 'x'" if table == "ledger_archived_tx" else (
        "sha256 = 'x'" if table == "ledger_archive" else "archive_id = 9"
    )  # fmt: skip


def _drop_guards(world: World) -> None:
    with world.database.engine.connect() as connection:
        if world.database.kind == "sqlite":
            names = connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            )
            for (name,) in names.all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            for table in ("ledger_archive", "ledger_archived_lane", "ledger_rollup"):
                connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        connection.commit()


def test_a_seal_covers_what_was_kept(
    world: World, accounts: tuple[int, int], tmp_path: Path
) -> None:
    archive(world.database, CUT, tmp_path)
    _drop_guards(world)
    for change in (
        "ledger_rollup SET debits = debits {} 1",
        "ledger_rollup SET credits = credits {} 1",
        "ledger_archived_lane SET last_seq = last_seq {} 1",
        "ledger_archive SET events = events {} 1",
    ):
        for sign, off in (("+", True), ("-", False)):
            with world.database.session() as session:
                session.execute(text(f"UPDATE {change.format(sign)}"))
            assert (verify(world.database).problems != []) == off, change


def test_an_archive_file_that_was_changed_or_lost_is_named(
    world: World, accounts: tuple[int, int], tmp_path: Path
) -> None:
    made = archive(world.database, CUT, tmp_path / "kept")
    assert made is not None
    copies = tmp_path / "copies"
    shutil.copytree(tmp_path / "kept", copies)
    lines = gzip.decompress((copies / made.name).read_bytes()).replace(b"sep1", b"sep7")
    (copies / made.name).write_bytes(gzip.compress(lines))
    with pytest.raises(LedgerCorrupt, match="not the file that was sealed"):
        verify(world.database, archive_dir=copies)
    (copies / made.name).unlink()
    with pytest.raises(NotFound):
        verify(world.database, archive_dir=copies)


def test_a_journal_that_is_off_is_not_archived(
    world: World, accounts: tuple[int, int], tmp_path: Path
) -> None:
    _drop_guards(world)
    if world.database.kind == "postgresql":
        with world.database.session() as session:
            session.execute(text("ALTER TABLE usage_event DISABLE TRIGGER USER"))
    with world.database.session() as session:
        session.execute(text("UPDATE usage_event SET wallet_u = wallet_u + 1 WHERE id = 'sep2'"))
    with pytest.raises(LedgerCorrupt, match="nothing was archived"):
        archive(world.database, CUT, tmp_path)
    assert list(tmp_path.glob("*.gz*")) == []
    assert _count(world, "ledger_archive") == 0
    with world.database.session() as session:
        session.execute(text("UPDATE usage_event SET wallet_u = wallet_u - 1 WHERE id = 'sep2'"))


def test_the_same_rows_are_the_same_file(
    world: World, accounts: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "_seal", lambda *_: None)
    one = archive(world.database, CUT, tmp_path / "one")
    two = archive(world.database, CUT, tmp_path / "two")
    assert one is not None
    assert two is not None
    assert one.sha256 == two.sha256


def test_balances_and_export_tell_the_same_story(world: World, accounts: tuple[int, int]) -> None:
    balances = {balance.account: balance for balance in trial_balance(world.database)}
    assert balances["wallet:a"].debits == 8 * 40 + 7
    assert sum(balance.balance for balance in balances.values()) == 0
    rows = list(export(world.database))
    assert len(rows) == _count(world, "ledger_transfer")
    spent = sum(row[9] for row in rows if row[7] == "wallet:a" and row[5] in ("POST", "POSTED"))
    assert spent == 8 * 40 + 7
    assert len(list(export(world.database, CUT + 10))) == 4 * 5


def test_archiving_beside_a_busy_writer(world: World, tmp_path: Path) -> None:
    """The rows of this very moment are being written while older ones are sealed and pruned."""
    from marketplace.ledger.writer import LedgerWriter

    wallet = world.account("wallet:a", 10_000)
    for number in range(20):
        world.do(world.hold(f"old{number}", (wallet, 1)))
        world.do(world.settle(f"old{number}", [1], wallet=1, voucher=0))
    writer = LedgerWriter(world.database.raw_connection, "busy")
    outcomes: list[Outcome] = []

    def progress(_rows: int) -> None:
        tx = f"new{len(outcomes)}"
        outcomes.append(writer.submit(world.hold(tx, (wallet, 1), at_us=CUT + 1)))

    archive(world.database, CUT, tmp_path, progress=progress)
    writer.close()
    assert len(outcomes) > 10
    assert verify(world.database, archive_dir=tmp_path).problems == []


def test_two_archives_do_not_write_the_same_file(
    world: World, accounts: tuple[int, int], tmp_path: Path
) -> None:
    """Somebody archives by hand while the nightly run is at it; both would make number 1."""
    refused = []

    def meanwhile(_rows: int) -> None:
        if not refused:
            with pytest.raises(Conflict, match="Another archive") as refusal:
                archive(world.database, CUT, tmp_path)
            refused.append(refusal)

    assert archive(world.database, CUT, tmp_path, progress=meanwhile)
    assert refused
    assert verify(world.database, archive_dir=tmp_path).problems == []
    assert archive(world.database, CUT + MONTH, tmp_path)
