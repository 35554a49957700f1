"""The peers are pinned, and nothing says where they are fetched from."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.gateway.errors import NotInstalled
from benchmarks.gateway.install import BROKEN, HERE, MENDED, ROOT, install, mended


def test_portkey_and_all_it_needs_is_pinned_by_hash_and_names_no_registry() -> None:
    text = (HERE / "portkey" / "package-lock.json").read_text()
    assert not re.search(r"https?:|file:", text)
    packages = json.loads(text)["packages"]
    (wanted,) = packages.pop("")["dependencies"].items()
    assert packages[f"node_modules/{wanted[0]}"]["version"] == wanted[1]
    assert all(each["version"] and each["integrity"] for each in packages.values())


@pytest.mark.parametrize("name", ["litellm", "tensorzero", "go", "node"])
def test_python_peers_are_locked_to_what_is_asked_for(name: str) -> None:
    asked = (ROOT / "requirements" / f"peer-{name}.in").read_text().strip()
    locked = (ROOT / "requirements" / f"peer-{name}.lock").read_text()
    assert re.sub(r"\[.*?\]", "", asked) in re.sub(r"\[.*?\]", "", locked)
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
