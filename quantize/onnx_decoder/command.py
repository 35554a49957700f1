"""The command line of the builder: data (the manifest's path) on stdout, talk on stderr."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from catalog.ground.errors import TokenMartError
from catalog.variants.onnx_manifest import PRECISIONS


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    made = argparse.ArgumentParser(
        prog="python -m quantize.onnx_decoder", description="Build a served ONNX decoder variant."
    )
    made.add_argument("source", type=Path, help="Hugging Face folder (Qwen2 or Llama family)")
    made.add_argument("target", type=Path, help="folder to make; it must not exist or be empty")
    made.add_argument("--precision", choices=PRECISIONS, default="int4")
    made.add_argument("--name", help="public name of the model (default: the source folder's name)")
    made.add_argument("--block-size", type=int, choices=(16, 32, 64, 128, 256), default=32)
    made.add_argument("--temperature", type=float, help="default temperature of the variant")
    made.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="further builder option"
    )
    return made


def main(argv: list[str]) -> int:
    """Build one variant; return 0, or 2 with one sentence on stderr."""
    arguments = parser().parse_args(argv)
    from quantize.onnx_decoder.variant import Plan, build

    plan = Plan(
        source=arguments.source,
        target=arguments.target,
        precision=arguments.precision,
        name=arguments.name or arguments.source.resolve().name,
        block_size=arguments.block_size,
        temperature=arguments.temperature,
        options=tuple(arguments.option),
    )
    try:
        report = build(plan)
    except TokenMartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.summary(), file=sys.stderr)
    print(plan.target / "manifest.json")
    return 0
