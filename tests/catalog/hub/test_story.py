"""The developer's story in three client versions, with Xet on and off, each client a real process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog.artifacts.store import open_store
from catalog.ground.database import Database
from catalog.hub.scrub import scrub

STORY = Path(__file__).with_name("story.py")
TOOLCHAINS = Path(__file__).parents[3] / ".toolchains"
CLIENTS = {
    "2": Path(sys.executable),
    "1": TOOLCHAINS / "hub-1/bin/python",
    "0.36": TOOLCHAINS / "hub-0-36/bin/python",
}
STEPS = 10


def tell(hub: Any, python: Path, folder: Path, **more: str) -> None:
    environment = hub.environment(folder / "home", **more)
    folder.mkdir()
    told = subprocess.run(
        [python, STORY, folder], env=environment, capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("ok ") == STEPS, told.stdout


def available() -> list[str]:
    """The environments of the other versions are made by `make toolchain-hub-1 toolchain-hub-0-36`."""
    return [version for version, python in CLIENTS.items() if python.exists()]


@pytest.mark.parametrize("xet", ["on", "off"])
@pytest.mark.parametrize("version", available())
def test_the_story_holds(start_hub: Any, tmp_path: Path, version: str, xet: str) -> None:
    hub = start_hub()
    more = {} if xet == "on" else {"HF_HUB_DISABLE_XET": "1"}
    tell(hub, CLIENTS[version], tmp_path / "work", **more)
    assert scrub(hub.database, hub.store) == []


def test_the_story_holds_on_postgresql(
    start_hub: Callable[..., Any], tmp_path: Path, postgres_url: str
) -> None:
    hub = start_hub(database=Database(postgres_url))
    tell(hub, CLIENTS["2"], tmp_path / "work")
    assert scrub(hub.database, hub.store) == []


def test_the_story_holds_on_a_remote_store(start_hub: Callable[..., Any], tmp_path: Path) -> None:
    # `local://` is fsspec's own file system: every body is sent, moved and read as on an object store.
    url = f"local://{tmp_path / 'far'}"
    hub = start_hub("--store", url)
    tell(hub, CLIENTS["2"], tmp_path / "work")
    store = open_store(url, spool=tmp_path / "spool")
    assert scrub(hub.database, store) == []
