"""A folder that is not as its manifest says: one clear sentence, exit code 2, nothing is served."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def _refused(folder: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "serving.onnx_engine", str(folder), "--port", "0", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, "one sentence, no traceback"
    return done.stderr


@pytest.fixture
def copy(variant: Path, tmp_path: Path) -> Path:
    return shutil.copytree(variant, tmp_path / "variant")


def _change_manifest(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _describe_again(folder: Path, name: str) -> None:
    """Make the manifest announce what a file holds now, as a careless builder would."""
    from catalog.variants import onnx_manifest

    files = json.loads((folder / "manifest.json").read_text())["files"]
    entry = onnx_manifest.hash_file(folder / name)
    files[name] = {"sha256": entry.sha256, "size_bytes": entry.size_bytes}
    _change_manifest(folder, files=files)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _garbage(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    _describe_again(folder, name)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda f: (f / "manifest.json").unlink(),
            "manifest.json is not a valid manifest: the file",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda f: _flip(f / "model.onnx"), "model.onnx is corrupt"),
        (lambda f: _garbage(f, "model.onnx", "no graph"), "onnxruntime cannot load it"),
        (lambda f: _garbage(f, "tokenizer.json", "{}"), "tokenizer.json is not a tokenizer"),
        (lambda f: _garbage(f, "chat_template.jinja", "{% for %}"), "chat template is not valid"),
        (lambda f: _change_manifest(f, layers=77), "does not describe model.onnx"),
        (lambda f: _change_manifest(f, vocab_size=99_999), "does not describe model.onnx"),
        (lambda f: _change_manifest(f, format_version=9), '"format_version" must be 1'),
    ],
)
def test_a_harmed_folder_is_refused(
    copy: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    harm(copy)
    assert sentence in _refused(copy)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "There is no folder" in _refused(tmp_path / "nowhere")


def test_a_context_longer_than_the_models_is_refused(variant: Path) -> None:
    assert "is more than the model's context" in _refused(variant, "--max-model-len", "99999")


def test_an_address_that_is_taken(engine: Any, variant: Path) -> None:
    port = engine.url.rpartition(":")[2]
    assert "Cannot listen on" in _refused(variant, "--port", port)


def test_the_engine_is_ready_in_under_three_seconds(start: Any) -> None:
    began = time.monotonic()
    start()
    assert time.monotonic() - began < 3
