"""The process around the engine: from the loaded model to an orderly end (`serving.process.running`).

Open answers may finish for `drain_s` seconds after a signal, then they end with an error event; the exit
code is 0 either way.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from serving.onnx_engine import endpoints
from serving.onnx_engine.engine import Engine
from serving.onnx_engine.loading import Model
from serving.onnx_engine.meters import Meters
from serving.onnx_engine.options import Options
from serving.process.running import run


async def serve(options: Options, model: Model, listener: socket.socket) -> None:
    """Answer until a signal comes, then drain. Prints the ready line on stdout."""
    engine = Engine(options, model, Meters())

    async def stop() -> None:
        await asyncio.to_thread(engine.scheduler.stop)

    await run(
        endpoints.build(engine),
        engine,
        listener,
        ready={"model": engine.names[0], "max_model_len": engine.context_length},
        drain_s=options.drain_s,
        stop=stop,
    )
    if options.uds is not None:
        Path(options.uds).unlink(missing_ok=True)
