"""What can be set on the command line of every engine process."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from typing import Any

KEY_VARIABLE = "TOKENMART_ENGINE_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where to listen, for whom, and how to end; `port` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = field(default=None, repr=False)
    drain_s: float = 30.0
    exit_with_parent: bool = False


def add_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """Add the arguments of `ServerOptions`; `port` is this engine's default."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=port, help="port to listen on; 0 takes a free one")
    add(
        "--api-key", help=f"key that callers must bring (better: {KEY_VARIABLE} in the environment)"
    )
    add("--drain-seconds", type=float, default=30.0, help="time for open answers after SIGTERM")
    add(
        "--exit-with-parent",
        action="store_true",
        help="die with the thread that started this (Linux): start engines from a lasting one",
    )


def fields_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `ServerOptions` as the command line, then the environment, set them."""
    return {
        "host": given.host,
        "port": given.port,
        "api_key": given.api_key or os.environ.get(KEY_VARIABLE) or None,
        "drain_s": given.drain_seconds,
        "exit_with_parent": given.exit_with_parent,
    }
