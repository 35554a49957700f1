"""Who waits for whom: nothing that takes long may stop everybody else."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import json
import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import Request

from catalog.artifacts.local import LocalStore
from catalog.artifacts.staging import Staged, Staging
from catalog.ground.clock import now_us
from catalog.ground.database import Database
from catalog.hub.downloads import DownloadCounter
from catalog.hub.meter import RequestMeter
from catalog.hub.scrub import scrub
from catalog.hub.serve_blob import BlobResponse, Span


@pytest.fixture
def hub(thread_hub: Callable[..., Any]) -> Any:
    hub = thread_hub()
    hub.ask("POST", "/api/repos/create", {"name": "acme/m"})
    return hub


def test_nobody_who_writes_waits_while_bodies_go_to_the_disk(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = LocalStore.publish
    published: list[int] = []

    def beside_a_writer(self: LocalStore, staged: Staged) -> None:
        # A paid call on the same database, at that very moment.
        with sqlite3.connect(hub.database.engine.url.database, timeout=0) as other:
            other.execute("BEGIN IMMEDIATE")
        published.append(staged.size_bytes)
        publish(self, staged)

    monkeypatch.setattr(LocalStore, "publish", beside_a_writer)
    value = {"path": "a", "content": base64.b64encode(b"12345").decode(), "encoding": "base64"}
    assert hub.commit("acme/m", {"key": "file", "value": value}).status == 200
    assert hub.ask("PUT", link(hub, b"large"), b"large", key=None).status == 200
    assert published == [5, 5]


def link(hub: Any, body: bytes) -> str:
    asked = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body)}
    batch = hub.ask(
        "POST",
        "/acme/m.git/info/lfs/objects/batch",
        {"operation": "upload", "objects": [asked]},
    )
    return urlsplit(json.loads(batch.body)["objects"][0]["actions"]["upload"]["href"]).path


def test_a_full_disk_is_told_and_gives_the_room_back(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(12 << 20)
    path = link(hub, body)
    write = Staging.write

    def full(self: Staging, data: bytes | memoryview) -> None:
        if self.size_bytes + len(data) > 2 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(Staging, "write", full)
    answer = hub.ask("PUT", path, body, key=None)
    assert (answer.status, answer.headers["x-error-code"]) == (503, "storage_full")
    assert not [path for path in hub.store.root.rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert hub.ask("PUT", path, body, key=None).status == 200
    assert scrub(hub.database, hub.store) == []


def test_who_has_left_is_sent_nothing_more(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    size = 30 << 20
    with store.stage() as staging:
        staging.write(bytes(size))
        staged = staging.finish()
    store.publish(staged)
    sent: list[int] = []

    async def receive() -> dict[str, Any]:
        while len(sent) < 3:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(
        message: Any,
    ) -> None:  # a server whose client has left takes all and never waits
        sent.append(len(message.get("body", b"")))

    response = BlobResponse(store.open(staged.sha256), Span(0, size), 200, {})
    asyncio.run(response({"type": "http"}, receive, send))
    assert sum(sent) < size // 2


def test_long_keys_do_not_fill_the_memory() -> None:
    meter = RequestMeter(60, now_us)
    tracemalloc.start()
    try:
        for number in range(200):
            key = b"Bearer %d" % number + b"x" * 50_000
            meter.take(Request({"type": "http", "headers": [(b"authorization", key)]}))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_database_that_is_away_loses_no_download(hub: Any, tmp_path: Path) -> None:
    hub.stop()
    later = tmp_path / "later" / "hub.db"
    counter = DownloadCounter(Database(f"sqlite:///{later}"), now_us)
    with hub.database.reading() as session:
        repo_id = session.connection().exec_driver_sql("SELECT id FROM hub_repo").scalar()
    counter.count(str(repo_id))
    counter.flush()
    later.parent.mkdir()
    with sqlite3.connect(hub.database.engine.url.database) as source:
        source.execute("VACUUM INTO ?", (str(later),))
    counter.flush()
    with sqlite3.connect(later) as read:
        assert read.execute("SELECT downloads FROM hub_repo").fetchall() == [(1,)]
