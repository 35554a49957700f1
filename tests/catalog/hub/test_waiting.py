"""Who waits for whom: nothing that takes long may stop everybody else."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from catalog.artifacts.local import LocalStore
from catalog.artifacts.staging import Staged


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
    asked = {"oid": hashlib.sha256(b"large").hexdigest(), "size": 5}
    batch = hub.ask(
        "POST",
        "/acme/m.git/info/lfs/objects/batch",
        {"operation": "upload", "objects": [asked]},
    )
    href = json.loads(batch.body)["objects"][0]["actions"]["upload"]["href"]
    assert hub.ask("PUT", urlsplit(href).path, b"large", key=None).status == 200
    assert published == [5, 5]
