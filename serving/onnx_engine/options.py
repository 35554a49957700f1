"""Everything that can be set when an engine is started."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from serving.process.options import ServerOptions, add_arguments, fields_of


@dataclass(frozen=True, slots=True)
class Options(ServerOptions):
    """`max_model_len` 0 means the model's own context, or what `cache_bytes` has room for."""

    folder: Path
    uds: str | None = None
    served_names: tuple[str, ...] = ()
    max_rows: int = 8
    max_waiting: int = 64
    max_model_len: int = 0
    cache_bytes: int = 2 * 2**30
    chunk_tokens: int = 64
    threads: int = 1
    request_timeout_s: float = 600.0
    max_body_bytes: int = 4 * 2**20


def parser() -> argparse.ArgumentParser:
    """Return the argument parser; its help texts are the reference."""
    made = argparse.ArgumentParser(
        prog="tokenmart serve onnx", description="Serve an ONNX decoder variant over HTTP."
    )
    add = made.add_argument
    add("folder", type=Path, help="variant folder with its manifest.json")
    add_arguments(made, port=8100)
    add("--uds", metavar="PATH", help="listen on a Unix domain socket instead")
    add("--served-model-name", nargs="+", default=[], metavar="NAME", help="names to answer to")
    add("--max-rows", type=_at_least(1), default=8, help="sequences that are decoded together")
    add("--max-waiting", type=_at_least(0), default=64, help="sequences that may wait; then 429")
    add("--max-model-len", type=_at_least(0), default=0, help="context in tokens; 0: the model's")
    add("--chunk-tokens", type=_at_least(1), default=64, help="prompt tokens between two steps")
    add("--threads", type=_at_least(1), default=1, help="threads of the matrix products")
    add("--request-timeout-seconds", type=float, default=600.0, help="time for one request")
    return made


def parse(argv: list[str]) -> Options:
    """Return the options of a command line; argparse exits with code 2 on a wrong one."""
    given = parser().parse_args(argv)
    return Options(
        folder=given.folder,
        uds=given.uds,
        served_names=tuple(given.served_model_name),
        max_rows=given.max_rows,
        max_waiting=given.max_waiting,
        max_model_len=given.max_model_len,
        chunk_tokens=given.chunk_tokens,
        threads=given.threads,
        request_timeout_s=given.request_timeout_seconds,
        **fields_of(given),
    )


class _at_least:  # noqa: N801 - argparse shows it as a type
    def __init__(self, low: int) -> None:
        self.low = low

    def __call__(self, text: str) -> int:
        value = int(text)
        if value < self.low:
            raise argparse.ArgumentTypeError(f"must be at least {self.low}")
        return value
