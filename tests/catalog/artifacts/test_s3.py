"""The S3 story, told where its packages are: `make toolchain-hub-s3` (moto's server is a test's thing)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTHONS = [python for python in (ROOT / ".toolchains/hub-s3/bin/python",) if python.exists()]


@pytest.mark.parametrize("python", PYTHONS, ids=lambda _python: "moto")
def test_the_store_works_on_s3(python: Path, tmp_path: Path) -> None:
    story = Path(__file__).with_name("s3_story.py")
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    told = subprocess.run(
        [python, story, tmp_path], env=environment, capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert [line for line in told.stdout.splitlines() if line.startswith("ok ")] == [
        "ok publish",
        "ok ranges",
        "ok walk",
        "ok delete",
    ]
