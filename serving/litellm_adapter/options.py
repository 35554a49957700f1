"""What can be set on the command line; what concerns the models is in the file that it names."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path

KEY_VARIABLE = "TOKENMART_ENGINE_KEY"


@dataclass(frozen=True, slots=True)
class Options:
    """Where to listen, and what to serve there."""

    config: Path
    host: str = "127.0.0.1"
    port: int = 8200
    api_key: str | None = field(default=None, repr=False)
    drain_s: float = 30.0
    exit_with_parent: bool = False


def parser() -> argparse.ArgumentParser:
    """Return the argument parser; its help texts are the reference."""
    made = argparse.ArgumentParser(
        prog="tokenmart serve litellm",
        description="Serve models of outside providers over HTTP, through litellm.",
    )
    add = made.add_argument
    add("--config", type=Path, required=True, help="the models, as TOML (docs/providers.md)")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8200, help="port to listen on; 0 takes a free one")
    add(
        "--api-key", help=f"key that callers must bring (better: {KEY_VARIABLE} in the environment)"
    )
    add("--drain-seconds", type=float, default=30.0, help="time for open answers after SIGTERM")
    add("--exit-with-parent", action="store_true", help="die with the process that started this")
    return made


def parse(argv: list[str]) -> Options:
    """Return the options of a command line; argparse exits with code 2 on a wrong one."""
    given = parser().parse_args(argv)
    return Options(
        config=given.config,
        host=given.host,
        port=given.port,
        api_key=given.api_key or os.environ.get(KEY_VARIABLE) or None,
        drain_s=given.drain_seconds,
        exit_with_parent=given.exit_with_parent,
    )
