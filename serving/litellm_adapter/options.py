"""What can be set on the command line; what concerns the models is in the file that it names."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from serving.process.options import ServerOptions, add_arguments, fields_of


@dataclass(frozen=True, slots=True)
class Options(ServerOptions):
    """Where to listen, and what to serve there."""

    config: Path


def parser() -> argparse.ArgumentParser:
    """Return the argument parser; its help texts are the reference."""
    made = argparse.ArgumentParser(
        prog="tokenmart serve litellm",
        description="Serve models of outside providers over HTTP, through litellm.",
    )
    made.add_argument(
        "--config", type=Path, required=True, help="the models, as TOML (docs/providers.md)"
    )
    add_arguments(made, port=8200)
    return made


def parse(argv: list[str]) -> Options:
    """Return the options of a command line; argparse exits with code 2 on a wrong one."""
    given = parser().parse_args(argv)
    return Options(config=given.config, **fields_of(given))
