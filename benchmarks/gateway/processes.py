"""Processes of our own: started in a session of their own, measured with all their children, ended.

What a gateway costs is read from /proc: user and system time of its root process and of everything below
it or in its session, those already gone included. What is `counted_apart` is a tree of its own: it counts for
nothing above it. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOP_S = 20.0
_PPID, _SESSION, _UTIME, _CSTIME = 1, 3, 11, 14
_apart: set[int] = set()


@dataclass(frozen=True)
class Memory:
    """One process's memory, in MiB. PSS counts what processes share once, in equal parts."""

    name: str
    rss_mib: float
    pss_mib: float


def tree(root: int) -> dict[int, list[str]]:
    """Return the processes at and below `root` or in its session: /proc stat fields from state on."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
    for pid in _below(_apart - {root}, found):
        del found[pid]
    members = {pid for pid, fields in found.items() if int(fields[_SESSION]) == root}
    return {pid: found[pid] for pid in _below({root} | members, found)}


def _below(roots: set[int], found: Mapping[int, Sequence[str]]) -> set[int]:
    """Return those of `roots` that still run, and their descendants."""
    members = roots & found.keys()
    while more := {
        pid for pid, fields in found.items() if int(fields[_PPID]) in members and pid not in members
    }:
        members |= more
    return members


@contextlib.contextmanager
def counted_apart(pid: int) -> Iterator[None]:
    """Meanwhile count a process and what is below it in no tree but its own.

    The time of an ended process is its parent's: see that it still runs at the end.
    """
    _apart.add(pid)
    try:
        yield
    finally:
        _apart.discard(pid)


def cpu_s(root: int) -> float:
    """Return the processor seconds that the tree has taken so far, ended children included."""
    fields = tree(root).values()
    ticks = sum(sum(map(int, each[_UTIME : _CSTIME + 1])) for each in fields)
    return ticks / TICKS_PER_S


def memory(root: int) -> list[Memory]:
    """Return the memory of every process of the tree, largest first."""
    found = []
    for pid in tree(root):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            found.append(Memory(_name(pid), kib["Rss"] / 1024, kib["Pss"] / 1024))
    return sorted(found, key=lambda each: -each.pss_mib)


def _name(pid: int) -> str:
    """Return a short name: the program, and of an interpreter what it runs."""
    words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split()
    program = Path(words[0]).name if words else "?"
    if not program.startswith(("python", "node")):
        return program.rstrip(":")
    rest = [Path(word).name for word in words[1:] if word.startswith("-c") or word[0] != "-"]
    return " ".join([program, *rest[:3]])[:48]


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in `folder`, its output in `output.log` there; end it and its children afterwards."""
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process as an operator would; whatever is left of its group afterwards is killed."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_words(folder: Path) -> str:
    """Return the end of what the process in `folder` has printed."""
    log = folder / "output.log"
    return log.read_text(errors="replace")[-1500:] if log.exists() else ""


def fsync_ms_p50(folder: Path) -> float:
    """Return what it takes to make 4 KiB durable on the disk of `folder`."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)
