"""Run an engine as a child process on this machine, and start it again when it dies.

The child listens on a free port of the loopback address, asks for a key that only we know, and says on
its standard output when it is ready. It dies with us, whatever happens to us.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from catalog.ground.errors import Unavailable

log = logging.getLogger(__name__)

_READY_S = 60.0
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

Report = Callable[[str], Awaitable[None]]
"""Told the engine's URL when it is ready, '' when it has gone."""


@dataclass
class LocalEngine:
    """One supervised ONNX engine. `model` is the name that it answers to."""

    folder: Path
    model: str
    threads: int = 1
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    url: str = ""
    _process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Start the engine and return its URL; `Unavailable` with the engine's own words if it cannot."""
        command = [sys.executable, "-m", "serving.onnx_engine", str(self.folder)]
        command += ["--port", "0", "--served-model-name", self.model, "--exit-with-parent"]
        command += ["--threads", str(self.threads)]
        environment = os.environ | {"TOKENMART_ENGINE_KEY": self.api_key}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
            )
        except OSError as error:  # No process to spare, or no Python while it is being replaced.
            raise Unavailable(
                f"The engine for {self.model} cannot be started: {error.strerror}."
            ) from None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), _READY_S)
        except TimeoutError:
            line = b""
        if not line:
            await self.stop()
            words = (await self._process.stderr.read(4096)).decode(errors="replace").strip()
            raise Unavailable(f"The engine for {self.model} did not start: {words or 'no answer'}")
        self.url = str(json.loads(line)["url"]).rstrip("/")
        return self.url

    async def keep(self, report: Report) -> None:
        """Wait for the engine to die and start it again, until cancelled."""
        failures = 0
        while True:
            assert self._process is not None
            await _drain(self._process)
            code = await self._process.wait()
            log.warning("the engine for %s ended with code %s", self.model, code)
            await report("")
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            try:
                await report(await self.start())
                failures = 0
            except Unavailable as error:
                failures += 1
                log.warning("%s", error)

    async def stop(self, grace_s: float = 10.0) -> None:
        """Ask the engine to finish, then end it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Pass the engine's log on until it closes it, so that its pipe never fills up."""
    assert process.stderr is not None
    while line := await process.stderr.readline():
        log.info("engine: %s", line.decode(errors="replace").rstrip())
