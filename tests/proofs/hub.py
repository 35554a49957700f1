"""Kill the hub and its collector over and over, and look whether anything is half there or lost.

    make prove-hub DURATION_S=120 SEED=1

Writers upload, commit, branch, delete and re-upload from a small pool of contents, so that bodies keep losing
their last reference while somebody else is bringing them again. All the while the server is killed with
SIGKILL at random moments and started again, and so is a collector that removes without any grace. After every
few kills everything is read back:

- the scrub finds nothing: every ref leads to whole commits, whole trees and bodies with the right sha256;
- every commit that was acknowledged is there, with the bytes that were sent;
- a body that was uploaded (or that the hub said it has) can be committed: its lease holds it;
- in the end, with all repositories deleted, the store is empty: nothing leaks.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from catalog.artifacts.store import open_store
from catalog.ground.database import Database
from catalog.hub.prune import sweep
from catalog.hub.scrub import scrub
from marketplace.migrations.migrate import migrate

KEY = "hf_proof"
POOL = 24
WRITERS = 3
KILLS_A_ROUND = 8
SPOOL_GRACE_US = 20_000_000
NURSERY = """
import os, signal, sys, time
from catalog.artifacts.store import open_store
from catalog.ground.database import Database
from catalog.hub import app
from catalog.hub.prune import sweep
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    role, *options = line.split()
    child = os.fork()
    if child:
        print("pid", child, flush=True)
        continue
    os.close(0)
    if role == "serve":
        os._exit(app.main(options))
    database, store = Database(options[0]), open_store(options[1])
    while True:
        sweep(database, store, commit_grace_us=0, grace_us=0, spool_grace_us=int(options[2]))
        time.sleep(0.05)
"""
"""Imports once and forks a server or a collector per line on its input: a restart takes milliseconds."""


class Down(Exception):
    """The server is not there, or died while it was answering."""


@dataclass
class Tally:
    """What happened, for the last line."""

    server_kills: int = 0
    collector_kills: int = 0
    commits: int = 0
    answered: int = 0
    unanswered: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    sent_bytes: int = 0
    rounds: int = 0
    failures: list[str] = field(default_factory=list)

    def refuse(self, what: str, status: int, body: bytes) -> None:
        """Count a refusal by request, status and reason."""
        document = json.loads(body) if body.startswith(b"{") else {}
        reason = str(document.get("type", "")).rpartition(":")[2]
        key = f"{what} {status} {reason}".strip()
        self.refused[key] = self.refused.get(key, 0) + 1


class Ground:
    """The folder, the database, and the two processes that get killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'hub.db'}"
        migrate(Database(self.url))
        self.store = open_store(str(folder / "artifacts"))
        keys = {KEY: {"name": "p", "orgs": {"acme": "owner"}}}
        (folder / "keys.json").write_text(json.dumps(keys))
        self.port = 0
        self._server = self._collector = 0
        command = [sys.executable, "-c", NURSERY]
        self._nursery = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _fork(self, *words: str) -> int:
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(" ".join(words) + "\n")
        self._nursery.stdin.flush()
        return int(self._said("pid"))

    def _said(self, what: str) -> str:
        assert self._nursery.stdout is not None
        while line := self._nursery.stdout.readline().split():
            if line[0] == what:
                return line[1]
        raise RuntimeError("the server does not start")

    def start_server(self) -> None:
        """Start it and wait until it listens."""
        keys = str(self.folder / "keys.json")
        place = ["--data", str(self.folder), "--keys", keys, "--port", str(self.port)]
        self._server = self._fork("serve", *place)
        self.port = int(self._said("ready"))

    def start_collector(self) -> None:
        """Start a collector that goes round and round."""
        place = [self.url, str(self.folder / "artifacts"), str(SPOOL_GRACE_US)]
        self._collector = self._fork("collect", *place)

    def kill_server(self) -> None:
        """End it without warning."""
        self._server = _kill(self._server)

    def kill_collector(self) -> None:
        """End it without warning."""
        self._collector = _kill(self._collector)

    def close(self) -> None:
        """End everything."""
        self.kill_server()
        self.kill_collector()
        self._nursery.communicate()


def _kill(process: int) -> int:
    if process:
        os.kill(process, signal.SIGKILL)
        with suppress(ProcessLookupError):
            while True:  # reaped by the nursery: gone when the signal finds nobody
                os.kill(process, 0)
                time.sleep(0.002)
    return 0


class Client:
    """One writer's connection; every failure of the transport is `Down`."""

    def __init__(self, ground: Ground, tally: Tally) -> None:
        self._ground = ground
        self._tally = tally

    def ask(self, method: str, path: str, sent: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._ground.port, timeout=30)
        try:
            connection.request(method, path, sent, {"Authorization": f"Bearer {KEY}"})
            response = connection.getresponse()
            body = response.read()
            self._tally.answered += 1
            return response.status, body
        except (OSError, http.client.HTTPException) as error:
            raise Down from error
        finally:
            connection.close()

    def post(self, path: str, document: Any) -> tuple[int, Any]:
        status, body = self.ask("POST", path, json.dumps(document).encode())
        if status >= 300:
            self._tally.refuse(path.rpartition("/")[2], status, body)
        return status, json.loads(body or b"null")

    def send_large(self, repo: str, bodies: dict[str, bytes]) -> None:
        objects = [{"oid": digest, "size": len(body)} for digest, body in bodies.items()]
        asked = {"operation": "upload", "transfers": ["basic"], "objects": objects}
        _, answer = self.post(f"/{repo}.git/info/lfs/objects/batch", asked)
        for item in answer.get("objects", []):
            if "actions" in item:
                place = urlsplit(item["actions"]["upload"]["href"]).path
                status, body = self.ask("PUT", place, bodies[item["oid"]])
                if status != 200:
                    self._tally.refuse("put", status, body)
                self._tally.sent_bytes += item["size"]


@dataclass
class Branch:
    """What a writer knows of its branch: what was acknowledged, and what may or may not have happened."""

    repo: str
    name: str
    acknowledged: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] | None = None
    deleting: bool = False


class Writer(threading.Thread):
    """Works on branches of its own in a shared repository until told to stop."""

    def __init__(
        self, number: int, seed: int, ground: Ground, tally: Tally, pool: list[bytes]
    ) -> None:
        super().__init__(daemon=True)
        self._random = random.Random(f"{seed}/{number}")
        self._client = Client(ground, tally)
        self._tally = tally
        self._pool = pool
        self._number = number
        self.branch = Branch("acme/shared", f"b{number}")
        self.pause = threading.Event()
        self.idle = threading.Event()
        self.stopped = False
        self._made = False

    def run(self) -> None:
        while not self.stopped:
            if self.pause.is_set():
                self.idle.set()
                time.sleep(0.01)
                continue
            self.idle.clear()
            try:
                self._step()
            except Down:
                self._tally.unanswered += 1
                time.sleep(0.05)
            except Exception as error:  # a proof must not lose a thread in silence
                self._tally.failures.append(f"writer {self._number}: {error!r}")
                return

    def _step(self) -> None:
        branch = self.branch
        self._client.post("/api/repos/create", {"name": branch.repo})
        self._client.post(
            f"/api/models/{branch.repo}/branch/{branch.name}", {"startingPoint": "main"}
        )
        if branch.deleting or self._random.random() < 0.15:
            self._delete_branch()
            return
        picked = self._random.sample(self._pool, self._random.randint(1, 3))
        large = {hashlib.sha256(body).hexdigest(): body for body in picked}
        self._client.send_large(branch.repo, large)
        if self._random.random() < 0.2:
            return  # given up before the commit: the lease keeps the bodies for a while
        self._commit(large)

    def _settle(self) -> None:
        # The last commit was not answered; what comes next stands on what became of it.
        branch = self.branch
        listed = _listed(self._client, branch)
        if listed is None or listed not in (branch.acknowledged, branch.pending):
            allowed = (branch.acknowledged, branch.pending)
            self._tally.failures.append(f"{branch.name}: {listed} is neither of {allowed}")
        branch.acknowledged, branch.pending = listed or {}, None

    def _delete_branch(self) -> None:
        branch = self.branch
        branch.deleting = True  # until an answer comes it may be there or not
        self._client.ask("DELETE", f"/api/models/{branch.repo}/branch/{branch.name}")
        branch.acknowledged, branch.pending, branch.deleting = {}, None, False
        self._made = False

    def _commit(self, large: dict[str, bytes]) -> None:
        branch = self.branch
        note = self._random.randbytes(self._random.randint(0, 400))
        wanted = {f"w/{self._random.randint(0, 3)}.bin": digest for digest in large}
        wanted["note.bin"] = hashlib.sha256(note).hexdigest()
        content = base64.b64encode(note).decode()
        lines: list[dict[str, Any]] = [
            {"key": "header", "value": {"summary": "step"}},
            {
                "key": "file",
                "value": {"path": "note.bin", "encoding": "base64", "content": content},
            },
        ]
        for path, digest in wanted.items():
            if path != "note.bin":
                value = {"path": path, "algo": "sha256", "oid": digest, "size": len(large[digest])}
                lines.append({"key": "lfsFile", "value": value})
        branch.pending = branch.acknowledged | wanted
        body = "\n".join(json.dumps(line) for line in lines).encode()
        place = f"/api/models/{branch.repo}/commit/{quote(branch.name, safe='')}"
        status, answer = self._client.ask("POST", place, body)
        if status == 200:
            branch.acknowledged, branch.pending = branch.pending, None
            self._tally.commits += 1
        else:
            branch.pending = None
            self._tally.refuse("commit", status, answer)
            if b"lfs_missing" in answer:
                self._tally.failures.append(f"{branch.name}: a body was lost under its lease")


def _listed(client: Client, branch: Branch) -> dict[str, str] | None:
    place = f"/api/models/{branch.repo}/tree/{branch.name}?recursive=true"
    status, body = client.ask("GET", place)
    if status != 200:
        return None
    found = {}
    for item in json.loads(body):
        if item["type"] == "file":
            digest = item["lfs"]["oid"] if "lfs" in item else None
            if digest is None:
                _, content = client.ask(
                    "GET", f"/{branch.repo}/resolve/{branch.name}/{item['path']}"
                )
                digest = hashlib.sha256(content).hexdigest()
            found[item["path"]] = digest
    return found


def check(ground: Ground, client: Client, writers: list[Writer], tally: Tally) -> None:
    """Compare what is visible with what was promised, byte for byte."""
    for finding in scrub(Database(ground.url), ground.store):
        tally.failures.append(f"scrub: {finding.kind} {finding.subject} {finding.detail}")
    for writer in writers:
        branch = writer.branch
        listed = _listed(client, branch)
        allowed: list[dict[str, str] | None] = [branch.acknowledged, branch.pending]
        if branch.deleting or not branch.acknowledged:
            allowed.append(None)
        if listed not in allowed or (listed is None and None not in allowed[2:]):
            tally.failures.append(f"{branch.name}: {listed} is neither {allowed}")
            continue
        for path, digest in (listed or {}).items():
            _, body = client.ask("GET", f"/{branch.repo}/resolve/{branch.name}/{path}")
            if hashlib.sha256(body).hexdigest() != digest:
                tally.failures.append(f"{branch.name}: {path} is not what was sent")
        # What happened to the unanswered one is known now.
        branch.acknowledged, branch.pending = listed or {}, None


def _let_work(tally: Tally, chance: random.Random) -> None:
    # Counted in answers rather than seconds, so that a slow machine is killed as deep in its work.
    goal, patience = tally.answered + chance.randint(0, 20), time.monotonic() + 10
    while tally.answered < goal and time.monotonic() < patience:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))


def _round(ground: Ground, chance: random.Random, tally: Tally) -> None:
    for _ in range(KILLS_A_ROUND):
        ground.start_server()
        _let_work(tally, chance)
        if chance.random() < 0.5:
            ground.kill_collector()
            ground.start_collector()
            tally.collector_kills += 1
        ground.kill_server()
        tally.server_kills += 1


def _rest(writers: list[Writer]) -> None:
    for writer in writers:
        writer.pause.set()
    for writer in writers:
        if writer.is_alive():
            writer.idle.wait(60)


def _nothing_leaks(ground: Ground, client: Client, tally: Tally) -> None:
    client.ask("DELETE", "/api/repos/delete", json.dumps({"name": "acme/shared"}).encode())
    ground.kill_server()
    for _ in range(2):
        sweep(Database(ground.url), ground.store, commit_grace_us=0, grace_us=-1, spool_grace_us=-1)
    left = [stored.sha256 for stored in ground.store.walk()]
    spooled = [path.name for path in ground.store.spool.rglob("*") if path.is_file()]
    if left or spooled:
        tally.failures.append(f"after deleting everything {len(left)} bodies, {spooled} are left")


def prove(duration_s: float, seed: int, folder: Path) -> Tally:
    """Run for about `duration_s` seconds and return what happened."""
    chance, tally, ground = random.Random(seed), Tally(), Ground(folder)
    pool = [chance.randbytes(chance.choice((10, 5_000, 300_000, 3_000_000))) for _ in range(POOL)]
    writers = [Writer(number, seed, ground, tally, pool) for number in range(WRITERS)]
    client = Client(ground, tally)
    ground.start_server()
    ground.kill_server()
    ground.start_collector()
    ends = time.monotonic() + duration_s
    try:
        for writer in writers:
            writer.start()
        while time.monotonic() < ends and not tally.failures:
            _round(ground, chance, tally)
            _rest(writers)
            ground.start_server()
            check(ground, client, writers, tally)
            tally.rounds += 1
            ground.kill_server()
            for writer in writers:
                writer.idle.clear()
                writer.pause.clear()
        for writer in writers:
            writer.stopped = True
            writer.join(60)
        ground.start_server()
        ground.kill_collector()
        with suppress(Down):
            _nothing_leaks(ground, client, tally)
    finally:
        ground.close()
    return tally


def main() -> int:
    """Read DURATION_S and SEED, run, print what happened; 1 when anything fell short."""
    duration_s = float(os.environ.get("DURATION_S") or 60)
    seed = int(os.environ.get("SEED") or time.time_ns() % 1_000_000)
    print(f"seed {seed}, {duration_s:.0f} s", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="prove-hub-") as folder:
        tally = prove(duration_s, seed, Path(folder))
    print(
        f"{tally.server_kills} server kills, {tally.collector_kills} collector kills, "
        f"{tally.rounds} full checks, {tally.commits} commits acknowledged, "
        f"{tally.answered} requests answered, {tally.unanswered} cut off, "
        f"{tally.sent_bytes / 1e6:.0f} MB of bodies sent, "
        f"refused {tally.refused}"
    )
    for failure in tally.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    enough = tally.server_kills > 0 and tally.commits > 0
    return 0 if enough and not tally.failures else 1


if __name__ == "__main__":
    sys.exit(main())
