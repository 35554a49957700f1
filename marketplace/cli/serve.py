"""`tokenmart serve`: run one engine in the foreground."""

from __future__ import annotations

import typer

app = typer.Typer(help="Engines: answer for a model over HTTP.", no_args_is_help=True)


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
