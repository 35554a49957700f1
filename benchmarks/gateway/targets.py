"""A target: a gateway that answers, as a process tree and an address.

How it is started lies beside this file:
`peers` starts the others, `ours` this gateway; each is a context manager over `Place` that yields a `Target`.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.gateway.errors import Refused
from benchmarks.gateway.market import Market
from benchmarks.gateway.processes import last_words

KEY = "sk-bench"
PATH = "/v1/chat/completions"
_START_S = 120.0


@dataclass(frozen=True)
class Place:
    """Where targets run: an empty folder, the upstream's address, and whether installing is forbidden."""

    folder: Path
    upstream: str
    upstream_pid: int
    offline: bool


@dataclass
class Booked:
    """What a gateway has written down when it has ended: calls, US dollars in its log and on its key."""

    rows: int = 0
    log_usd: float = 0.0
    key_usd: float = 0.0


@dataclass(frozen=True)
class Target:
    """A gateway that answers. `pid` and `database_pid` are roots of process trees; 0: there is none.

    `engine_pid` is a process that the gateway started and that does not count as its own (`counted_apart`).
    """

    name: str
    url: str
    pid: int
    version: str
    does: str
    key: str = KEY
    model: str = "mock"
    headers: tuple[str, ...] = ()
    database_pid: int = 0
    engine_pid: int = 0
    durable: bool = False
    market: Market | None = None
    legs: int = 0
    booked: Booked | None = None


Starter = Callable[[Place], AbstractContextManager[Target]]


def empty_folder(place: Place, name: str) -> Path:
    """Make a folder for the target to run in."""
    folder = place.folder / name
    folder.mkdir()
    return folder


def written(file: Path, folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until the process has written its address into `file`."""
    deadline = time.monotonic() + _START_S
    while not (file.exists() and file.read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Refused(f"{folder.name} did not start: {last_words(folder)}")
        time.sleep(0.1)
    return file.read_text()


def answering(target: Target, folder: Path, process: subprocess.Popen[bytes]) -> Target:
    """Wait until the target answers a call, and return it."""
    deadline = time.monotonic() + _START_S
    said = "nothing"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            said = _call(target)
        except OSError as error:
            said = str(error)
        if not said:
            return target
        time.sleep(0.2)
    raise Refused(
        f"{target.name} did not start; its last answer: {said}; it says: {last_words(folder)}"
    )


def _call(target: Target) -> str:
    """Make one call; return '' or what was answered instead of 200."""
    body = {"model": target.model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    status, text = post(target, urlsplit(target.url).path, body)
    return "" if status == 200 else f"{status} {text[:300]}"


def post(target: Target, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Send JSON to a path of the target with its key and headers; return status and body of the answer."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {target.key}"}
    headers |= dict(line.split(": ", 1) for line in target.headers)
    connection = http.client.HTTPConnection(urlsplit(target.url).netloc, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()
