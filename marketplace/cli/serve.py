"""`tokenmart serve`: run one part in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from marketplace.cli.output import say

app = typer.Typer(help="Run one part: an engine, or the gateway.", no_args_is_help=True)


@app.command(
    "onnx",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def onnx(context: typer.Context) -> None:
    """Serve an ONNX variant folder on a CPU (`serve onnx --help` lists the options)."""
    from serving.onnx_engine.command import main

    raise typer.Exit(main(context.args))


@app.command(
    "litellm",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def litellm(context: typer.Context) -> None:
    """Serve models of outside providers (`serve litellm --help` lists the options)."""
    from serving.litellm_adapter.launch import main

    raise typer.Exit(main(context.args))


@app.command("gateway")
def gateway(
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one")] = None,
) -> None:
    """Serve the metered gateway alone; engines are where `tokenmart endpoint list` says."""
    import uvloop

    from marketplace.migrations.migrate import migrate
    from marketplace.runtime import run_gateway
    from marketplace.settings import Settings

    changes = {"host": host, "port": port}
    settings = Settings(**{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
    migrate(settings.database)
    uvloop.run(run_gateway(settings, lambda url: say(f"the gateway is up at {url}")))
