"""A hub as a real process on a free port, and a way to ask it anything."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from catalog.artifacts.store import ArtifactStore, open_store
from catalog.ground.database import Database
from catalog.hub.app import create_app, identify_by
from catalog.hub.limits import HubLimits
from catalog.hub.router import build_hub
from catalog.releases import endpoints as releases

KEYS = {
    "hf_owner": {"name": "li", "orgs": {"acme": "owner"}},
    "hf_dev": {"name": "wang", "orgs": {"acme": "dev"}},
    "hf_auditor": {"name": "sun", "orgs": {"acme": "auditor"}},
    "hf_other": {"name": "zhao", "orgs": {"other": "owner"}},
    "hf_operator": {"name": "op", "orgs": {}, "operator": True},
}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass
class RunningHub:
    """A hub that listens, over a database and a store."""

    folder: Path
    database: Database
    port: int = 0

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> ArtifactStore:
        """The store it works on."""
        return open_store(str(self.folder / "artifacts"))

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "hf_owner",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request; a body that is not bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def commit(
        self, repo: str, *changes: dict[str, Any], parent: str | None = None, **options: Any
    ) -> Answer:
        """Commit lines as the client writes them; `options` go to `ask`."""
        header = {"summary": "test", "description": ""} | (
            {"parentCommit": parent} if parent else {}
        )
        lines = [{"key": "header", "value": header}, *changes]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        return self.ask("POST", f"/api/models/{repo}/commit/main", body, **options)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return what a client process needs to talk to this hub and to nobody else."""
        keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return keep | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_owner",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "DEV_TOKEN": "hf_dev",
            "OTHER_TOKEN": "hf_other",
            **more,
        }


@dataclass
class HubProcess(RunningHub):
    """A hub in a process of its own, which can be killed."""

    options: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> HubProcess:
        """Start it and wait until it listens."""
        (self.folder / "keys.json").write_text(json.dumps(KEYS))
        place = ["--data", str(self.folder), "--database", self.database.url]
        keys = ["--keys", str(self.folder / "keys.json"), "--port", str(self.port)]
        command = [sys.executable, "-m", "catalog.hub.app", *place, *keys, *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), f"the hub did not start: {line!r}"
        self.port = int(line.split()[1])
        return self

    def stop(self, *, kill: bool = False) -> None:
        """End it; with `kill` without warning."""
        if self.process is None:
            return
        self.process.kill() if kill else self.process.terminate()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None


@dataclass
class HubThread(RunningHub):
    """A hub in a thread of this process, behind a real socket: quick to start."""

    limits: HubLimits = field(default_factory=HubLimits)
    server: Any = None
    thread: threading.Thread | None = None

    def start(self) -> HubThread:
        """Start it and wait until it listens."""
        hub = build_hub(
            self.database, self.store, identify_by(KEYS), secret=b"s" * 32, limits=self.limits
        )
        app = create_app(hub)
        app.include_router(releases.routes(hub))
        config = uvicorn.Config(app, port=self.port, log_level="warning")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the hub did not start"
            time.sleep(0.005)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        return self

    def stop(self) -> None:
        """End it."""
        if self.thread is not None:
            self.server.should_exit = True
            self.thread.join(20)
            self.thread = None


@pytest.fixture
def start_hub(tmp_path: Path, sqlite_url: str) -> Iterator[Callable[..., HubProcess]]:
    """Start hubs on a fresh SQLite database (or a given one); they end with the test."""
    running: list[HubProcess] = []

    def start(*options: str, database: Database | None = None, name: str = "hub") -> HubProcess:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        hub = HubProcess(folder, database or Database(sqlite_url), options=list(options))
        running.append(hub)
        return hub.start()

    yield start
    for hub in running:
        hub.stop()
        hub.database.dispose()


@pytest.fixture
def thread_hub(tmp_path: Path, sqlite_url: str) -> Iterator[Callable[..., HubThread]]:
    """Start hubs with given limits in this process; they end with the test."""
    running: list[HubThread] = []

    def start(*, name: str = "hub", url: str = sqlite_url, **limits: int) -> HubThread:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        running.append(HubThread(folder, Database(url), limits=HubLimits(**limits)))
        return running[-1].start()

    yield start
    for hub in running:
        hub.stop()
        hub.database.dispose()
