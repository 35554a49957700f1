"""`transformers.from_pretrained` by name; torch lives in `.toolchains/train` (`make toolchain-train`)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(__file__).parents[3] / ".toolchains/train/bin/python"


@pytest.mark.skipif(not PYTHON.exists(), reason="needs torch: make toolchain-train")
def test_transformers_load_by_name(start_hub: Callable[..., Any], tmp_path: Path) -> None:
    hub = start_hub()
    story = Path(__file__).with_name("transformers_story.py")
    told = subprocess.run(
        [PYTHON, story, tmp_path],
        env=hub.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("ok ") == 3
