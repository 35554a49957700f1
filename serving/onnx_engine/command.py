"""The door: `tokenmart serve onnx FOLDER`, also `python -m serving.onnx_engine FOLDER`.

Stdout carries one line when the engine is ready; everything else is stderr. Exit codes: 0 after a
signal, 2 when the options, the folder or the address will not do (one sentence says why).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from catalog.ground.errors import TokenMartError
from serving.onnx_engine import options as settings
from serving.process.listening import open_socket
from serving.process.parent import die_with_parent


def main(argv: list[str]) -> int:
    """Serve a variant until a signal comes; return the exit code."""
    options = settings.parse(argv)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return _serve(options)
    except TokenMartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _serve(options: settings.Options) -> int:
    # Heavy imports wait until the options are known to be good: `--help` stays quick.
    from serving.onnx_engine import loading, process

    if options.exit_with_parent:
        die_with_parent()
    # The address first: an engine that cannot listen should not read gigabytes to find out.
    with open_socket(options.host, options.port, options.uds) as listener:
        model = loading.load(options)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(process.serve(options, model, listener))
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
