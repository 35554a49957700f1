"""What a gateway costs is the whole tree's, and the whole tree is ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gateway.processes import (
    counted_apart,
    cpu_s,
    free_port,
    fsync_ms_p50,
    memory,
    started,
    tree,
)

# A parent that waits for a child, which burns a third of a second and then starts one that stays.
_FAMILY = """
import subprocess, sys, time
burn = "import time; end = time.process_time() + 0.3\\nwhile time.process_time() < end: pass"
subprocess.run([sys.executable, "-c", burn])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("ready", "w").close()
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_the_time_and_memory_of_children_count_and_they_are_ended(tmp_path: Path) -> None:
    with started([sys.executable, "-c", _FAMILY], tmp_path) as process:
        wait_until((tmp_path / "ready").exists)
        # The child that burnt is gone; its time is not.
        assert cpu_s(process.pid) >= 0.3
        wait_until(lambda: len(tree(process.pid)) == 2)
        members = set(tree(process.pid))
        found = memory(process.pid)
        assert len(found) == 2
        for each in found:
            assert each.name.startswith("python")
            assert each.rss_mib >= each.pss_mib > 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in members))


# A parent whose child has a child.
_THREE = """
import subprocess, sys
child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
subprocess.run([sys.executable, "-c", child])
"""


def test_what_counts_apart_counts_with_what_is_below_it_and_nowhere_else(tmp_path: Path) -> None:
    with started([sys.executable, "-c", _THREE], tmp_path) as process:
        wait_until(lambda: len(tree(process.pid)) == 3)
        parents = {pid: int(fields[1]) for pid, fields in tree(process.pid).items()}
        (child,) = [pid for pid, parent in parents.items() if parent == process.pid]
        with counted_apart(child):
            assert set(tree(process.pid)) == {process.pid}
            assert set(tree(child)) == set(parents) - {process.pid}
            assert len(memory(process.pid)) == 1
        assert set(tree(process.pid)) == set(parents)


def test_what_a_process_printed_is_kept(tmp_path: Path) -> None:
    with started([sys.executable, "-c", "print('here')"], tmp_path) as process:
        process.wait()
    assert (tmp_path / "output.log").read_text() == "here\n"


def test_a_free_port_and_a_disk_are_found(tmp_path: Path) -> None:
    assert 0 < free_port() < 65536
    assert fsync_ms_p50(tmp_path) > 0
