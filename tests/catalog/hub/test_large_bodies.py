"""Bodies of several megabytes: taken from the socket, refused with an answer, cut off without a trace."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from catalog.hub import takeover

BODY = random.Random(5).randbytes(5_000_000)


@pytest.fixture
def hub(thread_hub: Callable[..., Any]) -> Any:
    hub = thread_hub()
    hub.ask("POST", "/api/repos/create", {"name": "acme/m"})
    return hub


def link(hub: Any, body: bytes = BODY) -> str:
    oid = hashlib.sha256(body).hexdigest()
    asked = {"operation": "upload", "objects": [{"oid": oid, "size": len(body)}]}
    item = hub.ask("POST", "/acme/m.git/info/lfs/objects/batch", asked).json()["objects"][0]
    return urlsplit(item["actions"]["upload"]["href"]).path


def stored(hub: Any) -> bool:
    return bool(hub.store.exists(hashlib.sha256(BODY).hexdigest()))


def test_a_large_body_is_taken_from_the_socket(hub: Any) -> None:
    answer = hub.ask("PUT", link(hub), BODY, key=None)
    assert answer.status == 200
    # The connection is given up only when its socket was taken: this watches over uvicorn's insides.
    assert answer.headers["connection"] == "close"
    assert stored(hub)


def test_events_do_as_well(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "FROM_BYTES", 1 << 40)
    answer = hub.ask("PUT", link(hub), BODY, key=None)
    assert (answer.status, "connection" in answer.headers) == (200, False)
    assert stored(hub)


def test_an_expectation_is_answered(hub: Any) -> None:
    with socket.create_connection(("127.0.0.1", hub.port), timeout=20) as connection:
        head = f"PUT {link(hub)} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        connection.sendall(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(BODY)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("events", [False, True])
def test_a_refused_body_gets_its_answer(
    hub: Any, monkeypatch: pytest.MonkeyPatch, events: bool
) -> None:
    if events:
        monkeypatch.setattr(takeover, "FROM_BYTES", 1 << 40)
    longer = hub.ask("PUT", link(hub), BODY + b"x" * 3_000_000, key=None)
    assert (longer.status, longer.headers["x-error-code"]) == (413, "payload_too_large")
    other = hub.ask("PUT", link(hub), BODY[:-1] + b"?", key=None)
    assert (other.status, other.headers["x-error-code"]) == (400, "integrity_error")
    assert not stored(hub)
    assert list(hub.store.spool.iterdir()) == []


@pytest.mark.parametrize("events", [False, True])
def test_a_sender_who_goes_away_leaves_nothing(
    hub: Any, monkeypatch: pytest.MonkeyPatch, events: bool
) -> None:
    if events:
        monkeypatch.setattr(takeover, "FROM_BYTES", 1 << 40)
    with socket.create_connection(("127.0.0.1", hub.port)) as connection:
        head = f"PUT {link(hub)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
        connection.sendall(head.encode() + BODY[:3_000_000])
    until = time.monotonic() + 20
    while list(hub.store.spool.iterdir()):
        assert time.monotonic() < until, "the half body is still in the spool"
        time.sleep(0.02)
    assert not stored(hub)
    assert hub.ask("PUT", link(hub), BODY, key=None).status == 200
