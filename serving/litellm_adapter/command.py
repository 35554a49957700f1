"""The door, in litellm's environment. `launch` leads here.

Stdout carries one line when the adapter is ready; everything else is stderr. Exit codes: 0 after a signal,
2 when the options, the file, the environment or the address will not do (one sentence says why).
"""

from __future__ import annotations

import asyncio
import os
import sys

from catalog.ground.errors import TokenMartError, Unavailable
from serving.litellm_adapter import config as configuration
from serving.litellm_adapter import options as settings
from serving.litellm_adapter.egress import Egress
from serving.process.listening import open_socket
from serving.process.parent import die_with_parent


def main(argv: list[str]) -> int:
    """Serve the models of a file until a signal comes; return the exit code."""
    options = settings.parse(argv)
    try:
        return _serve(options, configuration.load(options.config))
    except TokenMartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _serve(options: settings.Options, config: configuration.Config) -> int:
    # The parent and the address before litellm, whose import takes seconds.
    if options.exit_with_parent:
        die_with_parent()
    with open_socket(options.host, options.port) as listener:
        # Before litellm: what is imported there cannot call home either.
        Egress(config.hosts).install()
        # litellm reads these when it is imported: no .env file, no price list from the network.
        os.environ["LITELLM_MODE"] = "PRODUCTION"
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        os.environ.setdefault("LITELLM_LOG", "ERROR")
        try:
            from serving.litellm_adapter import calls, endpoints
            from serving.process.running import run
        except ModuleNotFoundError as error:
            raise Unavailable(
                f"This environment lacks {error.name}.",
                code="toolchain_missing",
                remedy="Run: make toolchain-litellm",
            ) from error
        calls.prepare()
        adapter = endpoints.Adapter(config, options.api_key)
        # asyncio's own loop: `egress` sees its connections, and would not see uvloop's.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(
                run(
                    endpoints.build(adapter),
                    adapter,
                    listener,
                    ready={"models": list(config.models)},
                    drain_s=options.drain_s,
                )
            )
    return 0
