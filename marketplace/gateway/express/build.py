"""Compile the express lane into this folder: python -m marketplace.gateway.express.build [--sanitize]"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
_FLAGS = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
]


def build(compiler: str = "c++", extra: tuple[str, ...] = ()) -> Path:
    """Compile what has changed and link it; returns the extension's path. Raises `CalledProcessError`."""
    objects = HERE.parents[2] / "build" / "express"
    objects.mkdir(parents=True, exist_ok=True)
    include = f"-I{sysconfig.get_paths()['include']}"
    newest_header = max(path.stat().st_mtime for path in HERE.glob("*.hpp"))
    made, commands = [], []
    for source in sorted(HERE.glob("*.cpp")):
        made.append(objects / f"{source.stem}.o")
        changed = max(source.stat().st_mtime, newest_header)
        if not made[-1].exists() or made[-1].stat().st_mtime < changed:
            commands.append(
                [compiler, *_FLAGS, *extra, include, "-c", str(source), "-o", str(made[-1])]
            )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))
    target = HERE / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    beside = target.with_suffix(".new")
    link = [compiler, "-shared", *extra, *map(str, made), "-o", str(beside), "-ldl", "-lpthread"]
    subprocess.run(link, check=True)
    beside.replace(target)
    return target


if __name__ == "__main__":
    print(
        build(os.environ.get("CXX", "c++"), tuple(shlex.split(os.environ.get("CXXFLAGS", "")))),
        file=sys.stderr,
    )
