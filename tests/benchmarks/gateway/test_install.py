"""The peers are pinned, and nothing says where they are fetched from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.gateway.errors import NotInstalled
from benchmarks.gateway.install import BROKEN, HERE, MENDED, ROOT, install, mended


@pytest.mark.parametrize("folder", ["portkey", "prisma"])
def test_npm_packages_are_pinned_by_hash_and_name_no_registry(folder: str) -> None:
    text = (HERE / folder / "package-lock.json").read_text()
    assert not re.search(r"https?:|file:", text)
    packages = json.loads(text)["packages"]
    wanted = packages.pop("")["dependencies"]
    assert wanted == json.loads((HERE / folder / "package.json").read_text())["dependencies"]
    assert all(packages[f"node_modules/{name}"]["version"] == wanted[name] for name in wanted)
    assert all(each["version"] and each["integrity"] for each in packages.values())


@pytest.mark.parametrize("name", ["litellm", "tensorzero", "go", "node"])
def test_python_peers_are_locked_to_what_is_asked_for(name: str) -> None:
    asked = (ROOT / "requirements" / f"peer-{name}.in").read_text().split()
    locked = (ROOT / "requirements" / f"peer-{name}.lock").read_text()
    for each in asked:
        assert re.sub(r"\[.*?\]", "", each) in re.sub(r"\[.*?\]", "", locked)
    assert "--hash=sha256:" in locked


def test_the_patch_fits_one_place_or_none() -> None:
    assert mended(f"before {BROKEN} after") == f"before {MENDED} after"
    for source in ("another program", f"{BROKEN} {BROKEN}"):
        with pytest.raises(NotInstalled, match="not the one"):
            mended(source)


def test_offline_leaves_out_what_is_not_there(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gateway.install.TOOLCHAINS", tmp_path)
    left_out = install(["litellm", "portkey", "tensorzero", "passthrough"], offline=True)
    assert set(left_out) == {"litellm", "portkey", "tensorzero", "passthrough"}
    assert all("--offline" in why for why in left_out.values())


def test_without_its_query_engine_litellm_still_takes_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(offline: bool) -> Path:
        raise NotInstalled("no such package")

    monkeypatch.setattr("benchmarks.gateway.install.python_ready", lambda *_: Path())
    monkeypatch.setattr("benchmarks.gateway.install.prisma_ready", nothing)
    assert install(["litellm"], offline=True) == {"litellm's database": "no such package"}
