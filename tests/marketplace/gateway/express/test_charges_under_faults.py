"""What harms the compiled charge writer, and that nothing is said to be booked before it is on disk.

A database that is locked or full, a disk that fails to sync, a power cut, and SIGKILL.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.compiled_charges import Booker, Ledger
from support.fault_database import Disk
from support.market import wait_until

from catalog.ground.database import Database
from marketplace.ledger.verify import verify

core = pytest.importorskip("marketplace.gateway.express._core")


def test_a_locked_database_is_waited_for(ledger: Ledger, booker: Booker) -> None:
    other = ledger.database.raw_connection()
    other.execute("BEGIN IMMEDIATE")
    sent = [booker.send(ledger.charge(f"c{n}")) for n in range(5)]
    assert not booker.writer.wait(0.3)
    other.execute("ROLLBACK")
    other.close()
    assert booker.wait(sent) == ["booked"] * 5


def test_a_database_that_stays_locked_makes_unsure(ledger: Ledger) -> None:
    booker = ledger.booker(patience_s=0.2)
    other = ledger.database.raw_connection()
    other.execute("BEGIN IMMEDIATE")
    assert booker.together(*(ledger.charge(f"c{n}") for n in range(5))) == ["unsure"] * 5
    other.execute("ROLLBACK")
    other.close()
    assert ledger.ids() == set()
    assert booker.together(*(ledger.charge(f"c{n}") for n in range(5))) == ["booked"] * 5
    with core.Turn():
        assert booker.wait([booker.send(ledger.charge("c5"))]) == ["unsure"]
    assert booker.do(ledger.charge("c5")) == "booked"
    booker.close()


def test_a_full_disk_books_nothing_that_it_does_not_say(tmp_path: Path, template: Path) -> None:
    disk = Disk(tmp_path / "disk", "8m")
    if not disk.small:
        pytest.skip("mounting a small disk takes root")
    try:
        path = disk.folder / "ledger.db"
        shutil.copy(template, path)
        ledger = Ledger(f"sqlite:///{path}")
        booker = ledger.booker()
        booked = {"c0"} if booker.do(ledger.charge("c0")) == "booked" else set()
        disk.fill()
        said = []
        for number in range(40):
            charges = [ledger.charge(f"c{number}-{n}", key="x" * 500) for n in range(20)]
            said += (outcomes := booker.together(*charges))
            booked |= {c.tx for c, told in zip(charges, outcomes, strict=True) if told == "booked"}
        assert said[-20:] == ["unsure"] * 20
        assert ledger.ids() == booked
        disk.free()
        assert booker.together(*charges) == ["booked"] * 20
        booker.close()
        ledger.close()
    finally:
        disk.remove()


_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int fdatasync(int fd) {
  char link[64], path[4096] = {0};
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length > 4 && strcmp(path + length - 4, "-wal") == 0) {
    if (access(getenv("SYNC_FAILS"), F_OK) == 0) { errno = EIO; return -1; }
    struct stat now;
    fstat(fd, &now);
    int log = open(getenv("SYNC_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0644);
    dprintf(log, "%lld\n", (long long)now.st_size);
    close(log);
  }
  return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""


def _with_shim(folder: Path, code: str, *arguments: object) -> str:
    """Run code in a process whose syncs of the log can fail, and are noted; returns what it printed."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the test compiles a library of its own")
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(_SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    added = {
        "LD_PRELOAD": " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)])),
        "SYNC_FAILS": str(folder / "fails"),
        "SYNC_LOG": str(folder / "synced"),
        "PYTHONPATH": os.pathsep.join(["tests", *sys.path]),
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | added, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_SYNC_FAILS = """
import sys
from pathlib import Path
from support.compiled_charges import Booker, plain_charge
from catalog.ground.driver import connect
path, lane, clearing, wallet, maker, fails = sys.argv[1:]
lane, clearing, wallet, maker = map(int, (lane, clearing, wallet, maker))
held = connect(f"sqlite:///{path}")
booker, fails = Booker(path, lane, clearing), Path(fails)
def charges(name):
    return [plain_charge(f"{name}{n}", wallet, clearing, maker, 1) for n in range(3)]
print(*booker.together(*charges("a")))
fails.touch()
print(*booker.together(*charges("b")))
print(*booker.together(*charges("c")))
fails.unlink()
print(*booker.together(*charges("b"), *charges("c")))
booker.close()
"""


def test_what_could_not_be_synced_is_not_booked_before_it_is(
    ledger: Ledger, tmp_path: Path
) -> None:
    """The first batch after the error is committed; its outcome is unsure, and nobody builds on it until the
    whole log is in the database."""
    world = ledger.world
    told = _with_shim(
        tmp_path, _SYNC_FAILS, ledger.path, ledger.lane, world.clearing, ledger.wallet,
        world.maker, tmp_path / "fails",
    )  # fmt: skip
    assert told.splitlines() == [
        "booked booked booked",
        "unsure unsure unsure",
        "unsure unsure unsure",
        "booked booked booked booked booked booked",
    ]
    assert ledger.world.totals(ledger.wallet) == (0, 9, 1_000)


_POWER_CUT = """
import shutil, sys
from pathlib import Path
from support.compiled_charges import Booker, plain_charge
from catalog.ground.driver import connect
path, lane, clearing, wallet, maker, after = sys.argv[1:]
lane, clearing, wallet, maker = map(int, (lane, clearing, wallet, maker))
held = connect(f"sqlite:///{path}")
booker = Booker(path, lane, clearing)
for wave in range(12):
    charges = [plain_charge(f"c{wave}-{n}", wallet, clearing, maker, 1) for n in range(5)]
    assert booker.together(*charges) == ["booked"] * 5
held.execute("PRAGMA synchronous = OFF")  # a power cut forgets what this connection does
held.execute("UPDATE ledger_lane SET opened_at_us = opened_at_us + 1")
shutil.copy(path, after)
shutil.copy(f"{path}-wal", f"{after}-wal")
booker.close()
"""


def test_a_power_cut_keeps_every_booked_charge(ledger: Ledger, tmp_path: Path) -> None:
    """What the disk has for certain is the log as far as it was synced."""
    world, after = ledger.world, tmp_path / "after.db"
    ledger.world.close()
    _with_shim(
        tmp_path, _POWER_CUT, ledger.path, ledger.lane, world.clearing, ledger.wallet,
        world.maker, after,
    )  # fmt: skip
    synced = [int(size) for size in (tmp_path / "synced").read_text().split()]
    log = after.with_name("after.db-wal")
    assert len(synced) == 12
    assert synced[-1] < log.stat().st_size
    os.truncate(log, synced[-1])
    database = Database(f"sqlite:///{after}")
    assert verify(database).problems == []
    connection = database.raw_connection()
    assert connection.execute("SELECT count(*) FROM usage_event").fetchone() == (60,)
    connection.close()
    database.dispose()


def _kill_at_work(command: list[str], ready: Path, after_s: float) -> None:
    """Start a process, and kill it so long after it has said that it is ready."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    with subprocess.Popen(command, env=environment) as child:
        try:
            wait_until(lambda: ready.exists() or child.poll() is not None, 60)
            # Nothing is waited for here: the kill may meet it at any moment of its work.
            time.sleep(after_s)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL


def test_a_killed_process_has_booked_all_that_it_said(ledger: Ledger, tmp_path: Path) -> None:
    world, chance = ledger.world, random.Random(7)
    world.do(world.post("rich", world.bank, ledger.wallet, 10**9))
    numbers = [ledger.lane, world.clearing, ledger.wallet, world.maker]
    for seed in range(6):
        arguments = [str(each) for each in (ledger.path, *numbers, seed, tmp_path)]
        command = [sys.executable, "-m", "support.compiled_charges", *arguments]
        _kill_at_work(command, tmp_path / f"ready-{seed}", chance.random() * 0.4)
        assert world.problems() == []
        answered = set((tmp_path / "answered").read_text().split())
        assert answered <= ledger.ids()
    assert answered
