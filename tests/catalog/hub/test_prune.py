"""What no ref reaches goes away, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from catalog.hub.prune import sweep
from catalog.hub.scrub import scrub


@pytest.fixture
def hub(thread_hub: Callable[..., Any]) -> Any:
    hub = thread_hub()
    hub.ask("POST", "/api/repos/create", {"name": "acme/m"})
    return hub


def commit(hub: Any, branch: str, path: str, body: bytes) -> str:
    value = {"path": path, "content": base64.b64encode(body).decode(), "encoding": "base64"}
    lines = b'{"key":"header","value":{"summary":"t"}}\n'
    lines += json.dumps({"key": "file", "value": value}).encode()
    answer = hub.ask("POST", f"/api/models/acme/m/commit/{branch}", lines)
    assert answer.status == 200, answer.body
    return str(answer.json()["commitOid"])


def sizes(hub: Any) -> list[int]:
    return sorted(item.size_bytes for item in hub.store.walk())


def test_a_deleted_branch_takes_its_own_with_it(hub: Any) -> None:
    main = commit(hub, "main", "a/kept.txt", b"kept")
    hub.ask("POST", "/api/models/acme/m/branch/dev", {})
    hub.ask("POST", "/api/models/acme/m/tag/main", {"tag": "v1"})
    gone = commit(hub, "dev", "a/gone.txt", b"gone with the branch")
    tagged = commit(hub, "main", "b.txt", b"second")
    hub.ask("DELETE", "/api/models/acme/m/branch/dev")
    sweep(hub.database, hub.store, grace_us=-1)
    assert len(sizes(hub)) == 3, "a commit stays readable by its id for a while"
    assert hub.ask("GET", f"/acme/m/resolve/{gone}/a/gone.txt").status == 200
    sweep(hub.database, hub.store, commit_grace_us=0, grace_us=-1)
    assert sizes(hub) == [4, 6]
    assert hub.ask("GET", f"/acme/m/resolve/{gone}/a/gone.txt").status == 404
    for revision in (main, "v1", tagged, "main"):
        assert hub.ask("GET", f"/acme/m/resolve/{revision}/a/kept.txt").body == b"kept"
    assert scrub(hub.database, hub.store) == []


def test_a_file_replaced_on_main_stays_in_the_history(hub: Any) -> None:
    old = commit(hub, "main", "x.txt", b"old")
    commit(hub, "main", "x.txt", b"newer")
    sweep(hub.database, hub.store, commit_grace_us=0, grace_us=-1)
    assert hub.ask("GET", f"/acme/m/resolve/{old}/x.txt").body == b"old"


def test_a_lease_outlives_the_pin_it_found(hub: Any) -> None:
    body = bytes(300_000)
    oid = hashlib.sha256(body).hexdigest()
    asked = {"operation": "upload", "objects": [{"oid": oid, "size": len(body)}]}

    def batch() -> Any:
        answer = hub.ask("POST", "/acme/m.git/info/lfs/objects/batch", asked)
        return answer.json()["objects"][0]

    def name_it(branch: str) -> int:
        value = {"path": "w.bin", "algo": "sha256", "oid": oid}
        lines = [{"key": "header", "value": {"summary": "t"}}, {"key": "lfsFile", "value": value}]
        text = "\n".join(json.dumps(line) for line in lines).encode()
        return int(hub.ask("POST", f"/api/models/acme/m/commit/{branch}", text).status)

    hub.ask("POST", "/api/models/acme/m/branch/dev", {})
    hub.ask("PUT", urlsplit(batch()["actions"]["upload"]["href"]).path, body)
    assert name_it("dev") == 200
    hub.ask("DELETE", "/api/models/acme/m/branch/dev")
    assert "actions" not in batch(), "the hub has it, and promises to keep it for this upload"
    sweep(hub.database, hub.store, commit_grace_us=0, grace_us=-1)
    assert name_it("main") == 200
    assert hub.ask("GET", "/acme/m/resolve/main/w.bin").body == body


def test_deleting_a_repository_leaves_nothing(hub: Any) -> None:
    commit(hub, "main", "x.txt", b"old")
    hub.ask("GET", "/api/models/acme/m/xet-write-token/main")
    hub.ask("DELETE", "/api/repos/delete", {"name": "acme/m"})
    sweep(hub.database, hub.store, commit_grace_us=0, grace_us=-1)
    assert sizes(hub) == []
    assert scrub(hub.database, hub.store) == []


def test_the_scrub_notices_a_changed_row(hub: Any) -> None:
    commit(hub, "main", "a/x.txt", b"body")
    with hub.database.session() as session:
        session.execute(
            text("UPDATE hub_tree_entry SET oid = :oid WHERE name = 'x.txt'"), {"oid": "0" * 40}
        )
        session.execute(text("UPDATE hub_commit SET author = 'somebody' WHERE depth = 1"))
        session.execute(text("DELETE FROM artifact_holding"))
    kinds = {finding.kind for finding in scrub(hub.database, hub.store)}
    assert kinds == {"tree_changed", "commit_changed", "body_unpinned"}
