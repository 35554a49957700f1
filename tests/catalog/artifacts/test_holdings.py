"""Who keeps a body alive, what the collector removes, and that the two never disagree."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from catalog.artifacts import registry
from catalog.artifacts.collect import collect, in_use
from catalog.artifacts.local import LocalStore
from catalog.artifacts.scrub import scrub
from catalog.artifacts.sql import join_writers
from catalog.artifacts.staging import Staged
from catalog.ground.clock import DAY_US, SetClock, now_us
from catalog.ground.database import Database
from catalog.ground.errors import Forbidden, NotFound, Unavailable


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def keep(
    database: Database,
    store: LocalStore,
    body: bytes,
    holder: str,
    *,
    account: str = "acme",
    pinned: bool = True,
    until_us: int = 0,
) -> str:
    with store.stage() as staging:
        staging.write(body)
        staged = staging.finish()
    store.publish(staged)
    with database.session() as session:
        kept = registry.register(session, store, [staged], now_us=now_us())
        registry.hold(
            session,
            list(kept.values()),
            holder=holder,
            account=account,
            pinned=pinned,
            leased_until_us=until_us,
        )
    return staged.sha256


def test_what_is_held_stays_and_the_rest_goes(database: Database, store: LocalStore) -> None:
    clock = SetClock(now_us() + DAY_US)
    pinned = keep(database, store, b"pinned", "r1")
    leased = keep(database, store, b"leased", "r1", pinned=False, until_us=clock() + DAY_US)
    lapsed = keep(database, store, b"lapsed", "r1", pinned=False, until_us=1)
    done = collect(database, store, clock=clock)
    assert (done.lapsed, done.condemned, done.removed) == (1, 1, 0)
    assert store.exists(lapsed), "condemned is not removed: the grace has not passed"
    clock.advance(DAY_US)
    done = collect(database, store, clock=clock)
    assert (done.removed, done.removed_bytes) == (1, 6)
    assert [store.exists(digest) for digest in (pinned, leased, lapsed)] == [True, True, False]
    assert scrub(database, store) == []
    assert in_use(database) == 2


def test_condemned_counts_as_absent_until_it_is_brought_again(
    database: Database, store: LocalStore
) -> None:
    digest = keep(database, store, b"body", "r1", pinned=False, until_us=1)
    collect(database, store)
    with database.reading() as session:
        assert registry.find(session, [digest]) == {}
        with pytest.raises(NotFound):
            registry.get(session, digest)
    keep(database, store, b"body", "r2")
    collect(database, store, grace_us=-1)
    assert store.exists(digest)
    assert scrub(database, store) == []


def test_a_file_without_a_row_goes_after_the_grace(database: Database, store: LocalStore) -> None:
    with store.stage() as staging:
        staging.write(b"killed between rename and commit")
        store.publish(staging.finish())
    assert collect(database, store).strays == 0
    assert collect(database, store, grace_us=-1).strays == 1
    assert list(store.walk()) == []


def test_a_body_counts_once_for_an_account(database: Database, store: LocalStore) -> None:
    for holder in ("r1", "r2", "release"):
        keep(database, store, b"x" * 100, holder)
    keep(database, store, b"y" * 50, "r1")
    keep(database, store, b"x" * 100, "other", account="other")
    with database.reading() as session:
        assert registry.used_bytes(session, "acme") == 150
        registry.check_quota(session, "acme", extra_bytes=50, quota_bytes=200)
        with pytest.raises(Forbidden, match="150 of 200 bytes; 51 more"):
            registry.check_quota(session, "acme", extra_bytes=51, quota_bytes=200)


def test_the_scrub_names_what_is_wrong(database: Database, store: LocalStore) -> None:
    gone, cut, changed = (keep(database, store, body, "r") for body in (b"one", b"two2", b"three"))
    store.delete(gone)
    store.local_path(cut).write_bytes(b"tw")
    store.local_path(changed).write_bytes(b"THREE")
    found = {(finding.kind, finding.subject) for finding in scrub(database, store)}
    assert found == {
        ("artifact_missing", gone),
        ("artifact_size", cut),
        ("artifact_corrupt", changed),
    }


def keep_at_last(database: Database, store: LocalStore, body: bytes, holder: str) -> str:
    """Bring a body again for as long as the collector takes it away before its row is there."""
    while True:
        with suppress(Unavailable):
            return keep(database, store, body, holder)


def test_writers_and_a_merciless_collector(database: Database, store: LocalStore) -> None:
    """Bodies lose their last holder and are brought again, all at once: none may be lost."""
    bodies = [bytes([number]) * 500 for number in range(4)]
    stop = threading.Event()
    failures: list[str] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        holder = f"holder{number}"
        for _ in range(12):
            digest = keep_at_last(database, store, chance.choice(bodies), holder)
            try:
                with store.open(digest) as reader:
                    reader.read(0, 10)
            except FileNotFoundError:
                failures.append(digest)
            with database.session() as session:
                join_writers(session)
                registry.let_go(session, holder)

    def sweep() -> None:
        while not stop.is_set():
            collect(database, store, grace_us=-1, spool_grace_us=DAY_US)

    sweeper = threading.Thread(target=sweep)
    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    sweeper.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    sweeper.join()
    assert failures == []
    assert scrub(database, store) == []


def test_two_who_bring_the_same_bodies_do_not_wait_for_each_other(
    postgres_url: str, store: LocalStore
) -> None:
    staged = []
    for content in (b"1", b"2"):
        with store.stage() as staging:
            staging.write(content)
            staged.append(staging.finish())
    low, high = sorted(staged, key=lambda body: body.sha256)
    for body in staged:
        store.publish(body)
    database = Database(postgres_url)

    def somebody_waits() -> bool:
        asked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        with database.session() as session:
            return bool(session.scalar(asked))

    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            registry.register(session, store, [low], now_us=1)
            other = pool.submit(_register, database, store, [high, low])
            while not somebody_waits():
                assert not other.done()
                time.sleep(0.005)
            registry.register(session, store, [high], now_us=1)
        assert other.result(timeout=30) == {low.sha256, high.sha256}
    database.dispose()


def _register(database: Database, store: LocalStore, bodies: list[Staged]) -> set[str]:
    with database.session() as session:
        return set(registry.register(session, store, bodies, now_us=1))
