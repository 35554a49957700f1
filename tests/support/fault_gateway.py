"""A gateway under a supervisor that starts it again, as systemd or Kubernetes does, and ways to harm it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlmodel import select
from support.market import Market, environment_of

from catalog.ground.clock import DAY_US, now_us
from catalog.ground.database import Database
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.gateway.directory import ENDPOINTS
from marketplace.gateway.tables import Endpoint
from marketplace.prices.components import Components
from marketplace.vouchers.service import fund, issue, programme

ROOT = Path(__file__).resolve().parents[2]
_MOVED_CLOCK = Path(__file__).parent / "moved_clock"
HOLD_TTL_S = 5
DRAIN_S = 4
SILENCE_S = 3
_AGAIN_S = 0.1
"""How soon the supervisor starts again what has ended (systemd's RestartSec is 0.1 s)."""
_PRICE = Components(input_u_per_m=2_000_000, output_u_per_m=9_000_000, cache_read_u_per_m=500_000)
_MONEY_U = 10**12
_BEFORE_US = 5 * DAY_US
"""How long ago the money was given: the clock goes back, and a voucher is worth nothing before its time."""


class Clock:
    """The wall clock of the gateway's processes; the monotonic clock goes on.

    A library of ours stands before the C library's `clock_gettime` (`moved_clock`), so that compiled code and
    Python have one clock. Without a compiler a `sitecustomize` of ours replaces what Python asks for the
    time: then there is nothing else that reads it. libfaketime 0.9.10 would move more clocks than this one,
    and CPython's `time.sleep` fails with EINVAL under it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._file.write_bytes(bytes(8))
        self.environment = {"MOVED_CLOCK": str(self._file)}
        library = folder / "moved_clock.so"
        if _compiled(_MOVED_CLOCK / "moved_clock.c", library):
            before = os.environ.get("LD_PRELOAD", "")
            self.environment["LD_PRELOAD"] = f"{before} {library}".strip()
        else:
            self.environment["PYTHONPATH"] = f"{_MOVED_CLOCK}:{os.environ.get('PYTHONPATH', '')}"

    def set(self, offset_s: int) -> None:
        """Move the clock so far from the true time, at once."""
        with self._file.open("r+b") as file:
            file.write((offset_s * 10**9).to_bytes(8, sys.byteorder, signed=True))


def _compiled(source: Path, library: Path) -> bool:
    """Compile a shared library; return whether there is a compiler to do it with."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return False
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    return not subprocess.run(command, capture_output=True, timeout=60).returncode


class Pulse(NamedTuple):
    """One process at one moment."""

    pid: int
    descriptors: int
    memory_kib: int


class Gateway:
    """`tokenmart serve gateway` on a fixed port, started again whenever it ends."""

    def __init__(
        self, folder: Path, url: str, workers: int, trusted: dict[str, str] | None = None
    ) -> None:
        self.clock = Clock(folder)
        self.port = _free_port()
        self.log = folder / "gateway.log"
        more = {
            "TOKENMART_PORT": self.port,
            "TOKENMART_WORKERS": workers,
            "TOKENMART_HOLD_TTL_S": HOLD_TTL_S,
            "TOKENMART_DRAIN_S": DRAIN_S,
            "TOKENMART_UPSTREAM_SILENCE_S": SILENCE_S,
            "TOKENMART_UPSTREAM_CONNECT_S": 2,
            "TOKENMART_ORG_RPM": 0,
            "TOKENMART_ORG_CONCURRENCY": 0,
            "TOKENMART_SLOW_REQUEST_S": 0,
        }
        told = {name: str(value) for name, value in more.items()} | (trusted or {})
        self.market = Market(folder, url, environment_of(folder, url, **told))
        self.workers = workers
        self.restarts = 0
        self._office: subprocess.Popen[bytes] | None = None
        self._seen: set[int] = set()
        self._leaving = threading.Event()
        self._keeper: threading.Thread | None = None

    def move_engines(self, host: str) -> None:
        """Tell the gateway that the engines are at another address, as when they were started anew."""
        with self.database() as database, database.session() as session:
            for endpoint in session.exec(select(Endpoint).where(Endpoint.model == "faulty")):
                where = urlsplit(endpoint.url)
                endpoint.url = f"{where.scheme}://{host}:{where.port}"
                session.add(endpoint)
            raise_marker(session, ENDPOINTS)

    def set_up(self, plain: list[int], secure: list[int]) -> tuple[str, tuple[str, str]]:
        """Seed the database; return (a key with money, the listings of both kinds of engines).

        Without engines behind TLS both are the same listing.
        """
        made = self.market.run("init")
        assert made.returncode == 0, made.stderr
        org_id, key = self.market.organisation()
        models = self._listing([f"http://127.0.0.1:{port}" for port in plain])
        behind = (
            self._listing([f"https://127.0.0.1:{port}" for port in secure]) if secure else models
        )
        with self.database() as database, database.session() as session:
            paying, at_us = programme(session, "starter"), now_us() - _BEFORE_US
            fund(session, new_id("test"), paying.id, _MONEY_U, at_us)
            issue(session, new_id("test"), paying, org_id, _MONEY_U, at_us)
        return key, (models, behind)

    def _listing(self, urls: list[str]) -> str:
        slug = self.market.listing(_PRICE, model="faulty", url=urls[0], context_length=131_072)
        with self.database() as database, database.session() as session:
            for url in urls[1:]:
                endpoint = Endpoint(
                    id=new_id("ept"), listing=slug, url=url, model="faulty", updated_at_us=0
                )
                session.add(endpoint)
        return slug

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        """Yield the database on fresh connections: it may have been restarted since the last time."""
        database = self.market.database
        try:
            yield database
        finally:
            database.dispose()

    def start(self) -> None:
        """Start it and keep it alive."""
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._leaving.is_set():
            with self.log.open("ab") as log:
                self._office = subprocess.Popen(
                    [sys.executable, "-m", "marketplace.cli", "serve", "gateway"],
                    cwd=ROOT,
                    env=self.market.environment | self.clock.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._office.wait()
            if not self._leaving.is_set():
                self.restarts += 1
                self._leaving.wait(_AGAIN_S)

    def stop(self) -> None:
        """End it for good, with everything that it has left behind."""
        self._leaving.set()
        self.terminate_office()
        if self._keeper is not None:
            self._keeper.join(DRAIN_S + 15)
        for pid in [*self._seen, self.office]:
            with contextlib.suppress(ProcessLookupError):
                if _is_ours(pid):
                    os.kill(pid, signal.SIGKILL)

    @property
    def office(self) -> int:
        """The office's process id."""
        return self._office.pid if self._office is not None else 0

    def children(self) -> list[int]:
        """The process ids of the workers that the office has now."""
        path = Path(f"/proc/{self.office}/task")
        found: list[int] = []
        with contextlib.suppress(OSError):
            for task in path.iterdir():
                found += [int(pid) for pid in (task / "children").read_text().split()]
        found = [pid for pid in found if b"marketplace.gateway.worker" in _command(pid)]
        self._seen.update(found)
        return found

    def orphans(self) -> list[int]:
        """Workers that still run although their office has gone."""
        now = set(self.children())
        return [pid for pid in self._seen - now if _is_ours(pid)]

    def terminate_office(self) -> None:
        """SIGTERM, as an operator or a rollout does."""
        self.signal(self.office, signal.SIGTERM)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to one of our processes; nothing happens when it has ended."""
        self.children()
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)

    def kill_group(self) -> None:
        """SIGKILL to the office and all workers at once, as the kernel does when memory is short."""
        for pid in [*self.children(), self.office]:
            self.signal(pid, signal.SIGKILL)

    def pulses(self) -> list[Pulse]:
        """Return what the office and the workers use now."""
        found = []
        for pid in [self.office, *self.children()]:
            with contextlib.suppress(OSError, IndexError):
                descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                found.append(Pulse(pid, descriptors, pages * os.sysconf("SC_PAGE_SIZE") // 1024))
        return found

    def tracebacks(self) -> list[str]:
        """Return the last line of every traceback in the log."""
        found: list[str] = []
        inside = False
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith(("Traceback", '  File "')):
                inside = True
            elif inside and line and not line.startswith((" ", "+", "|")):
                found.append(line[:160])
                inside = False
        return found

    def own_failures(self) -> list[str]:
        """Return the lines which say that a call failed by a fault of the gateway itself."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line[:160] for line in lines if "hot ERROR call " in line]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _is_ours(pid: int) -> bool:
    return b"marketplace." in _command(pid)


def _free_port() -> int:
    """Return a port below those that outgoing connections are given: it stays free between two starts."""
    for port in random.sample(range(15_000, 30_000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port was found")


def wait_for(condition: Callable[[], bool], seconds: float, every_s: float = 0.05) -> float | None:
    """Return the seconds until `condition()` held, None when it did not in time."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if condition():
            return time.monotonic() - began
        time.sleep(every_s)
    return None
