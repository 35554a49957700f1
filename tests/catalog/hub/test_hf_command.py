"""The `hf` command itself, as a developer types it."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HF = Path(sys.executable).with_name("hf")


def test_a_developers_session(thread_hub: Callable[..., Any], tmp_path: Path) -> None:
    hub = thread_hub()
    environment = hub.environment(tmp_path / "home")

    def hf(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [HF, *words], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(random.Random(1).randbytes(200_000))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# 模型\n")
    assert "li" in hf("auth", "whoami")
    hf("upload", "acme/m", str(folder), ".", "--commit-message", "first")
    hf("upload", "acme/m", str(folder / "README.md"), "docs/README.md")
    hf("repos", "tag", "create", "acme/m", "v1")
    hf("repos", "delete-files", "acme/m", "docs/*")
    down = tmp_path / "down"
    hf("download", "acme/m", "--revision", "v1", "--local-dir", str(down))
    digest = hashlib.sha256((folder / "weights.bin").read_bytes()).hexdigest()
    assert hashlib.sha256((down / "weights.bin").read_bytes()).hexdigest() == digest
    assert (down / "docs" / "README.md").exists()
    hf("download", "acme/m")
    hf("cache", "verify", "acme/m")
    assert "not found" in hf("download", "acme/none", code=1)
    assert "acme/m" in hf("models", "ls", "--author", "acme", "--format", "json")
