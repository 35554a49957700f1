"""Real engine processes on the committed seed build, one for the whole session."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from openai import OpenAI

from catalog.variants import onnx_manifest

ROOT = Path(__file__).parents[3]
SEED = ROOT / "catalog" / "seed" / "listing_translator_mini"
KEY = "engine-key-of-the-tests"
READY_S = 30


class Running:
    """An engine process that has said it is ready."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "serving.onnx_engine", str(folder)),
                *("--port", "0", "--exit-with-parent", *options),
            ],
            cwd=ROOT,
            env=os.environ | {"TOKENMART_ENGINE_KEY": KEY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        said = json.loads(line)
        self.url: str = said["url"]
        self.model: str = said["model"]
        self.context_length: int = said["max_model_len"]
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60)

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        with closing(urllib.request.urlopen(f"{self.url}/metrics")) as answer:
            text = answer.read().decode()
        values = re.findall(rf"^tokenmart_engine_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, values))

    def stop(self) -> int:
        """End the process; return its exit code."""
        self.client.close()
        self.process.terminate()
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture(scope="session")
def variant() -> Path:
    return SEED / "onnx"


@pytest.fixture(scope="session")
def titles() -> list[str]:
    """Chinese product titles of the harder held-out file."""
    lines = (SEED / "heldout_hard.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["zh"] for line in lines[:40]]


@pytest.fixture(scope="session")
def engine(variant: Path) -> Iterator[Running]:
    running = Running(variant)
    yield running
    assert running.stop() == 0


@pytest.fixture
def copy(variant: Path, tmp_path: Path) -> Path:
    """The build in a folder that may be changed; `announce` what was."""
    return shutil.copytree(variant, tmp_path / "variant")


@pytest.fixture
def announce() -> Callable[..., None]:
    """Make the manifest of a folder announce what its files hold now, as a careless builder would."""

    def write(folder: Path, *names: str) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        for name in names:
            entry = onnx_manifest.hash_file(folder / name)
            manifest["files"][name] = {"sha256": entry.sha256, "size_bytes": entry.size_bytes}
        manifest["files"] = {n: e for n, e in manifest["files"].items() if (folder / n).exists()}
        path.write_text(json.dumps(manifest))

    return write


@pytest.fixture
def start(variant: Path) -> Iterator[Callable[..., Running]]:
    """Start further engines with options, or a folder, of their own."""
    started: list[Running] = []

    def begin(*options: str, folder: Path = variant) -> Running:
        started.append(Running(folder, *options))
        return started[-1]

    yield begin
    for running in started:
        running.stop()
