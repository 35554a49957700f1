"""The address and the parent: what is settled before litellm is imported, which takes seconds."""

from __future__ import annotations

import ctypes
import os
import signal
import socket

from catalog.ground.errors import Conflict, Unavailable
from serving.litellm_adapter.options import Options

_PR_SET_PDEATHSIG = 1


def open_socket(options: Options) -> socket.socket:
    """Bind what the options name; `Conflict` when somebody is there already."""
    listener = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        listener.close()
        raise Conflict(
            f"Cannot listen on {options.host}:{options.port}: {error.strerror}.",
            code="address_taken",
        ) from None
    return listener


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends (Linux only)."""
    parent = os.getppid()
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
        raise Unavailable("The parent process is already gone.", code="parent_gone")
