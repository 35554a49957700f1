"""onnxruntime-genai's model builder, started as a process of its own.

A process, because the builder is a script that changes global state of torch and transformers, and
because what it keeps in memory should be gone before the result is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from catalog.ground.errors import BadRequest

TIMEOUT_S = 3600
GRAPH = "model.onnx"


def run(
    source: Path,
    target: Path,
    cache: Path,
    precision: str,
    options: Sequence[str],
) -> None:
    """Write the builder's folder to `target`; `options` are its `key=value` extra options.

    Raises `BadRequest` with the builder's last line when it does not finish. That it finishes proves
    little: some option sets leave a graph that no runtime loads, see `proof.py`.
    """
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(source), "-o", str(target), "-c", str(cache)]
    command += ["-p", precision, "-e", "cpu"]
    if options:
        command += ["--extra_options", *options]
    quiet = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        command,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0 or not (target / GRAPH).is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise BadRequest(
            f"The model builder did not finish: {said}",
            code="build_failed",
            rule="quantize.onnx_decoder.builder",
        )
