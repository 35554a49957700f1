"""An engine that is somebody's child does not outlive them."""

from __future__ import annotations

import ctypes
import os
import signal

from catalog.ground.errors import Unavailable

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends (Linux only).

    The kernel watches the *thread* that started us: a parent should start engines from its main one.
    `Unavailable` when the parent ended before it could be watched.
    """
    parent = os.getppid()
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
        raise Unavailable("The parent process is already gone.", code="parent_gone")
