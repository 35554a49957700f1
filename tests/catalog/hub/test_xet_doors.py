"""The Xet endpoints by hand: whose session, which xorbs, and what a wrong shard leaves behind."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from catalog.artifacts.collect import collect
from catalog.hub.scrub import scrub

XORB = "".join(f"{word:016x}" for word in (1, 2, 3, 4))
BODY = b"the plain body" * 1000


@pytest.fixture
def hub(thread_hub: Callable[..., Any]) -> Any:
    hub = thread_hub(org_quota_bytes=100_000)
    hub.ask("POST", "/api/repos/create", {"name": "acme/m"})
    hub.ask("POST", "/api/repos/create", {"name": "other/m"}, key="hf_other")
    return hub


def token(hub: Any, repo: str = "acme/m", key: str = "hf_owner") -> tuple[str, str]:
    answer = hub.ask("GET", f"/api/models/{repo}/xet-write-token/main", key=key).json()
    return urlsplit(answer["casUrl"]).path, answer["accessToken"]


def xorb_of(body: bytes) -> bytes:
    size = len(body).to_bytes(3, "little")
    return b"\0" + size + b"\0" + size + body


def shard_of(body: bytes, digest: str | None = None) -> bytes:
    text = digest or hashlib.sha256(body).hexdigest()
    words = struct.pack("<4Q", *(int(text[first : first + 16], 16) for first in range(0, 64, 16)))
    out = b"HFRepoMetaData".ljust(48, b"\0") + struct.pack("<32sII8x", bytes(32), 1 << 30, 1)
    out += struct.pack("<4Q4I", 1, 2, 3, 4, 0, len(body), 0, 1)
    return out + words + bytes(16) + b"\xff" * 48


def upload(hub: Any, place: str, word: str, body: bytes = BODY, digest: str | None = None) -> Any:
    sent = hub.ask("POST", f"{place}/v1/xorbs/default/{XORB}", xorb_of(body), key=word)
    assert sent.status == 200, sent.body
    return hub.ask("POST", f"{place}/v1/shards", shard_of(body, digest), key=word)


def test_a_session_lasts_until_its_shard_is_in(hub: Any) -> None:
    place, word = token(hub)
    assert token(hub)[0] == place, "a client that was cut off goes on where it was"
    assert token(hub, key="hf_dev")[0] != place, "each caller has a session of their own"
    assert upload(hub, place, word).json() == {"result": 1}
    assert token(hub)[0] != place, "what the client remembers of this address is over"
    line = {"path": "w.bin", "algo": "sha256", "oid": hashlib.sha256(BODY).hexdigest()}
    assert hub.commit("acme/m", {"key": "lfsFile", "value": line}).status == 200
    assert hub.ask("GET", "/acme/m/resolve/main/w.bin").body == BODY
    assert hub.ask("POST", f"{place}/v1/shards", shard_of(BODY), key=word).status == 200


def test_a_session_is_nobody_elses(hub: Any) -> None:
    place, _ = token(hub)
    _, theirs = token(hub, "other/m", "hf_other")
    for word in (theirs, "hf_owner", "x.y"):
        answer = hub.ask("POST", f"{place}/v1/xorbs/default/{XORB}", xorb_of(BODY), key=word)
        assert answer.status in (401, 403)
        assert hub.ask("POST", f"{place}/v1/shards", shard_of(BODY), key=word).status in (401, 403)


def test_a_wrong_shard_leaves_nothing(hub: Any) -> None:
    place, word = token(hub)
    wrong = upload(hub, place, word, digest="0" * 64)
    assert (wrong.status, wrong.headers["x-error-code"]) == (400, "integrity_error")
    hub.ask("POST", f"{place}/v1/xorbs/default/{XORB}", b"not a xorb at all", key=word)
    assert hub.ask("POST", f"{place}/v1/shards", shard_of(BODY), key=word).status == 400
    assert hub.ask("POST", f"{place}/v1/shards", b"junk", key=word).status == 400
    bad = hub.ask("POST", f"{place}/v1/xorbs/default/..%2F..%2Fx", xorb_of(BODY), key=word)
    assert bad.status in (400, 404)
    missing, later = token(hub, key="hf_dev")
    answer = hub.ask("POST", f"{missing}/v1/shards", shard_of(BODY), key=later)
    assert (answer.status, answer.headers["x-error-code"]) == (400, "xet_missing")
    collect(hub.database, hub.store, grace_us=-1, spool_grace_us=-1)
    assert scrub(hub.database, hub.store) == []
    assert not [path for path in hub.store.root.rglob("*") if path.is_file()]


def test_the_quota_holds_for_xet_too(hub: Any) -> None:
    place, word = token(hub)
    body = b"x" * 100_001
    answer = upload(hub, place, word, body)
    assert (answer.status, answer.headers["x-error-code"]) == (403, "quota_exceeded")
    item = {"path": "w.bin", "size": len(body), "sample": ""}
    early = hub.ask("POST", "/api/models/acme/m/preupload/main", {"files": [item]})
    assert early.status == 403, "the client hears of it before it sends anything"


def test_a_shard_beyond_the_quota_is_refused_before_anything_is_written(hub: Any) -> None:
    place, word = token(hub)
    asked = shard_of(
        b"x" * 100_001, "0" * 64
    )  # a few bytes can ask for the same chunk again and again
    answer = hub.ask("POST", f"{place}/v1/shards", asked, key=word)
    assert (answer.status, answer.headers["x-error-code"]) == (403, "quota_exceeded")


def test_an_empty_chunk_is_refused(hub: Any) -> None:
    """A xorb of 80 MB has room for ten million, and a shard may name them a million times."""
    place, word = token(hub)
    answer = upload(hub, place, word, b"")
    assert (answer.status, answer.headers["x-error-code"]) == (400, "xet_invalid")


def test_what_is_not_served_says_go_on_without(hub: Any) -> None:
    place, word = token(hub)
    for method, path in (
        ("GET", f"{place}/v1/chunks/default/{XORB}"),
        ("POST", f"{place}/v1/xorb-grants/default/{XORB}"),
        ("POST", f"{place}/v2/shards"),
    ):
        assert hub.ask(method, path, key=word).status == 404
    assert json.loads(hub.ask("GET", "/api/agent-harnesses", key=None).body)["harnesses"] == {}
