"""`tokenmart model` and `tokenmart release` against a hub; mirroring from a second one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog.artifacts.digest import files_digest
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, IntegrityError
from catalog.hub.scrub import scrub
from marketplace.cli.models import model_app
from marketplace.cli.releases import release_app
from marketplace.migrations.migrate import migrate


@pytest.fixture
def hub(thread_hub: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    hub = thread_hub()
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return hub


@pytest.fixture
def upstream(thread_hub: Callable[..., Any], tmp_path: Path) -> Any:
    """A second hub, whose operator is somebody else."""
    url = f"sqlite:///{tmp_path / 'upstream.db'}"
    database = Database(url)
    migrate(database)
    database.dispose()
    return thread_hub(name="upstream", url=url)


def run(app: Any, *words: str) -> Any:
    result = CliRunner().invoke(app, [*words, "--format", "json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    header = json.dumps({"t": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    body = struct.pack("<Q", len(header)) + header + b"12345678"
    (folder / "model.safetensors").write_bytes(body)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "sub" / "notes.txt").write_text("笔记")
    return folder


def test_a_model_goes_up_and_comes_down(hub: Any, tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    (made,) = run(model_app, "create", "acme/m")
    assert made == {"model": "acme/m", "url": f"{hub.url}/acme/m"}
    (first,) = run(model_app, "upload", "acme/m", str(folder))
    (info,) = run(model_app, "info", "acme/m")
    assert (info["commit"], info["files"], info["parameters"]) == (first["commit"], 3, 4)
    assert info["licence"] == "mit"
    assert [row["model"] for row in run(model_app, "list", "--org", "acme")] == ["acme/m"]
    (down,) = run(model_app, "download", "acme/m", "--to", str(tmp_path / "down"))
    for path in ("model.safetensors", "sub/notes.txt"):
        assert (Path(down["folder"]) / path).read_bytes() == (folder / path).read_bytes()


def test_releases_are_cut_listed_shown_and_compared(hub: Any, tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    run(model_app, "upload", "acme/m", str(folder))
    (old,) = run(release_app, "cut", "acme/m", "--version", "1.0")
    (folder / "sub" / "notes.txt").write_text("changed")
    run(model_app, "upload", "acme/m", str(folder))
    (new,) = run(release_app, "cut", "acme/m", "--version", "2.0")
    assert [row["version"] for row in run(release_app, "list", "acme/m")] == ["2.0", "1.0"]
    (shown,) = run(release_app, "show", "acme/m", "1.0")
    assert shown["digest"] == old["digest"] != new["digest"]
    assert shown["manifest"]["parameters"]["total"] == 4
    (changed,) = run(release_app, "diff", "acme/m", "1.0", "2.0")
    assert changed["files"]["changed"] == ["sub/notes.txt"]
    table = CliRunner().invoke(release_app, ["diff", "acme/m", "1.0", "2.0"])
    assert "sub/notes.txt" in table.stdout
    stranger = hub.ask("POST", "/api/models/acme/m/releases", {}, key="hf_other")
    assert stranger.headers["x-error-code"] == "RepoNotFound"


def test_what_the_server_refuses_is_one_sentence(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="Repository acme/none not found"):
        CliRunner().invoke(model_app, ["info", "acme/none"], catch_exceptions=False)
    with pytest.raises(BadRequest, match="may not write to other"):
        CliRunner().invoke(model_app, ["create", "other/m"], catch_exceptions=False)
    monkeypatch.delenv("HF_ENDPOINT")
    with pytest.raises(BadRequest, match="HF_ENDPOINT is not set"):
        CliRunner().invoke(model_app, ["info", "acme/m"], catch_exceptions=False)


def test_a_model_is_mirrored_with_every_hash_compared(
    hub: Any, upstream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", upstream.url)
    run(model_app, "upload", "acme/ready", str(folder))
    (theirs,) = run(release_app, "cut", "acme/ready", "--version", "1")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_SOURCE_TOKEN", "hf_owner")
    words = ["mirror", "acme/ready", "--source", upstream.url, "--to", "acme/ours"]
    words += ["--work", str(tmp_path / "work")]
    (mirrored,) = run(model_app, *words)
    assert mirrored["source_commit"] == theirs["commit"]
    assert f"sha256:{mirrored['digest']}" == theirs["digest"]
    assert (mirrored["licence"], mirrored["files"]) == ("mit", 3)
    (ours,) = run(release_app, "cut", "acme/ours", "--version", "1")
    assert ours["digest"] == theirs["digest"], "the same files have the same digest everywhere"
    message = hub.ask("GET", "/api/models/acme/ours/commits/main").json()[0]["message"]
    record = json.loads(message)
    assert (record["source"], record["source_commit"]) == (upstream.url, theirs["commit"])
    # Bytes that rot on the way are noticed before anything is committed.
    (tmp_path / "work" / "sub" / "notes.txt").write_text("笔讠")
    with pytest.raises(IntegrityError, match=r"sub/notes\.txt"):
        CliRunner().invoke(model_app, words, catch_exceptions=False)
    assert len(hub.ask("GET", "/api/models/acme/ours/commits/main").json()) == 2
    assert scrub(hub.database, hub.store) == []
    assert files_digest({}) != record["digest"]
