"""An engine that dies is started again, whatever stood in the way of it for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from serving import local_engine
from serving.local_engine import LocalEngine

SEED = Path(__file__).parents[2] / "catalog/seed/listing_translator_mini/onnx"


def test_a_start_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_engine, "_BACKOFF_S", (0.01,))

    async def scenario() -> list[str]:
        engine, urls = LocalEngine(SEED, "m"), asyncio.Queue[str]()
        first = await engine.start()
        keeper = asyncio.create_task(engine.keep(urls.put))
        python = sys.executable
        # As when Python itself is being replaced, or the machine has no process to spare.
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        assert engine._process is not None
        os.kill(engine._process.pid, signal.SIGKILL)
        assert await urls.get() == ""
        await asyncio.sleep(0.05)
        monkeypatch.setattr(sys, "executable", python)
        try:
            async with asyncio.timeout(30):
                while not (second := await urls.get()):
                    pass
            return [first, second]
        finally:
            keeper.cancel()
            await engine.stop()

    first, second = asyncio.run(scenario())
    assert first.startswith("http://127.0.0.1:")
    assert second.startswith("http://127.0.0.1:")
