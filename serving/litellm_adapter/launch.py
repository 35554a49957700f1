"""From `tokenmart serve litellm` into the environment that has litellm.

litellm cannot share an environment with the rest (it wants an older hub client and an older openai SDK), so
this process becomes the adapter: same process id, same signals, another Python.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from catalog.ground.errors import TokenMartError, Unavailable
from serving.litellm_adapter import config, options

ROOT = Path(__file__).parents[2]
TOOLCHAIN = ROOT / ".toolchains/litellm"
LOCK = ROOT / "requirements/litellm.lock"


def main(argv: list[str]) -> int:
    """Check what can be checked here, then become the adapter; returns only when that is not possible."""
    given = options.parse(argv)
    try:
        config.load(given.config)
        if importlib.util.find_spec("litellm") is not None:
            from serving.litellm_adapter import command

            return command.main(argv)
        python = python_of(TOOLCHAIN, LOCK)
    except TokenMartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    program = str(Path(__file__).with_name("__main__.py"))
    # -I: nothing of the calling environment, neither its folder nor its PYTHONPATH, is seen there.
    return os.execv(python, [str(python), "-I", program, *argv])  # noqa: S606 - no shell is meant


def python_of(toolchain: Path, lock: Path) -> Path:
    """Return the Python of the environment that has litellm; `Unavailable` says how to make it."""
    python, installed = toolchain / "bin/python", toolchain / "installed.lock"
    if not python.exists():
        raise Unavailable(
            f"litellm has an environment of its own, and {toolchain} is not there.",
            code="toolchain_missing",
            remedy="Run: make toolchain-litellm",
        )
    if lock.exists() and (not installed.exists() or installed.read_bytes() != lock.read_bytes()):
        raise Unavailable(
            f"{toolchain} was made from another lock than {lock}.",
            code="toolchain_old",
            remedy="Run: make toolchain-litellm",
        )
    return python
