"""A release is cut once, described from its files, and outlives its branch and its repository."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from catalog.artifacts.local import LocalStore
from catalog.artifacts.scrub import scrub
from catalog.artifacts.staging import Staged
from catalog.ground.clock import now_us
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict
from catalog.hub import commits, git_objects, refs, repos, uploads
from catalog.hub.access import open_gate
from catalog.hub.changes import AddLarge, AddSmall, CommitRequest
from catalog.hub.identity import Caller
from catalog.hub.limits import HubLimits
from catalog.hub.prune import sweep
from catalog.hub.router import build_hub
from catalog.hub.tables import Repo
from catalog.releases import diff, releases, variants

LI = Caller("li", {"acme": "owner"})
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 4096,
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "vocab_size": 100,
}
CARD = """---
license: apache-2.0
base_model: qwen/base
language: [zh, en]
pipeline_tag: text-generation
vertical: 电子商务
---
# 说明
"""


def weights(**tensors: bytes) -> bytes:
    header, at = {}, 0
    for name, data in tensors.items():
        header[name] = {
            "dtype": "F16",
            "shape": [len(data) // 2],
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


class Shop:
    """A repository that is filled without HTTP."""

    def __init__(self, database: Database, folder: Path, name: str = "shop-7B") -> None:
        self.database = database
        self.store = LocalStore(folder / "store")
        self.hub = build_hub(database, self.store, lambda _header: LI, secret=b"s" * 32)
        with database.session() as session:
            self.repo_id = repos.create(
                session, "acme", name, LI, private=False, now_us=now_us()
            ).id

    def stage(self, body: bytes) -> Staged:
        with self.store.stage() as staging:
            staging.write(body)
            return staging.finish()

    def commit(self, **files: bytes | str) -> str:
        """Commit files; `__` in a name stands for a dot."""
        request = CommitRequest(title="t")
        for key, content in files.items():
            body = content.encode() if isinstance(content, str) else content
            path, staged = key.replace("__", "."), self.stage(body)
            if path.endswith(".safetensors"):
                uploads.accept(self.hub, self.repo_id, [staged])
                request.large.append(AddLarge(path, staged.sha256, staged.size_bytes))
            else:
                self.store.publish(staged)
                request.small.append(AddSmall(path, staged, git_objects.blob_oid(body)))
        bench = commits.Workbench(self.store, HubLimits(), open_gate, now_us)
        with self.database.reading() as session:
            repo = session.get_one(Repo, self.repo_id)
            parameters = commits.check_weights(session, bench, repo, request, LI)
        with self.database.session() as session:
            repo = session.get_one(Repo, self.repo_id)
            ref = commits.target_ref(session, repo, "main", request)
            made = commits.commit(session, bench, repo, ref, request, LI, parameters=parameters)
        return made.oid

    def cut(self, version: str | None = None) -> releases.Release:
        return releases.cut(
            self.database, self.store, self.repo_id, version=version, created_by="li"
        )


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shop:
    return Shop(database, tmp_path)


def fill(shop: Shop, **more: bytes | str) -> str:
    files: dict[str, bytes | str] = {
        "README__md": CARD,
        "config__json": json.dumps(CONFIG),
        "LICENSE": "Apache License",
        "tokenizer_config__json": json.dumps(
            {"chat_template": "{{ x }}", "model_max_length": 10**30}
        ),
        "model__safetensors": weights(a=b"11223344", b=b"5566"),
    }
    return shop.commit(**files | more)


def test_a_manifest_is_read_from_the_files(shop: Shop) -> None:
    commit = fill(shop)
    release = shop.cut("1.0")
    found: dict[str, Any] = json.loads(release.manifest)
    assert (release.commit_oid, found["commit"], found["version"]) == (commit, commit, "1.0")
    assert found["architecture"]["class"] == "LlamaForCausalLM"
    assert found["architecture"]["layers"] == 2
    assert found["parameters"] == {
        "total": 6,
        "by_dtype": {"F16": 6},
        "files": ["model.safetensors"],
    }
    assert found["context_length"] == {"tokens": 4096, "source": "config.json"}
    assert found["chat_template"]["text"] == "{{ x }}"
    assert found["licence"]["id"] == "apache-2.0"
    assert found["licence"]["file"] == "LICENSE"
    assert (found["base_models"], found["base_relation"]) == (["qwen/base"], "finetune")
    assert (found["languages"], found["vertical"]) == (["zh", "en"], "电子商务")
    assert found["notes"] == ["The name says 7B parameters, the weights hold 6."]
    lines = sorted((item["path"], item["sha256"]) for item in found["files"])
    text = "".join(f"{sha256}  {path}\n" for path, sha256 in lines)
    assert release.digest == hashlib.sha256(text.encode()).hexdigest()


def test_a_release_never_changes(shop: Shop) -> None:
    fill(shop)
    first = shop.cut("1.0")
    assert shop.cut("1.0").id == first.id
    assert shop.cut("other").id == first.id, "the same commit is the same release"
    fill(shop, notes__txt="more")
    with pytest.raises(Conflict, match="another commit"):
        shop.cut("1.0")
    second = shop.cut()
    assert second.version == second.commit_oid[:12]
    with shop.database.reading() as session:
        assert [item.id for item in releases.listed(session, shop.repo_id)] == [second.id, first.id]
        assert releases.named(session, shop.repo_id, "1.0").id == first.id
        repo = session.get_one(Repo, shop.repo_id)
        assert refs.resolve(session, repo, "refs/releases/1.0").oid == first.commit_oid
    for bad in ("../x", "", " ", "a/b", "x" * 65):
        if bad:
            with pytest.raises(BadRequest):
                shop.cut(bad)


def test_a_release_outlives_its_repository(shop: Shop) -> None:
    fill(shop)
    release = shop.cut("1.0")
    with shop.database.session() as session:
        repos.remove(session, session.get_one(Repo, shop.repo_id))
    sweep(shop.database, shop.store, commit_grace_us=0, grace_us=-1)
    for item in json.loads(release.manifest)["files"]:
        assert shop.store.exists(item["sha256"]), item["path"]
    assert scrub(shop.database, shop.store) == []


def test_what_changed_between_two_releases(shop: Shop) -> None:
    fill(shop)
    old = shop.cut("1.0")
    longer = json.dumps(CONFIG | {"max_position_embeddings": 8192})
    body = weights(a=b"11223344", b=b"9999", c=b"00")
    fill(shop, config__json=longer, model__safetensors=body, new__txt="n")
    new = shop.cut("2.0")
    with shop.database.reading() as session:
        found = diff.diff(session, old, new)
    assert found["files"]["added"] == ["new.txt"]
    assert found["files"]["changed"] == ["config.json", "model.safetensors"]
    assert found["tensors"] == {"added": ["c"], "removed": [], "changed": ["b"], "same": 1}
    assert found["facts"]["context_length"]["new"]["tokens"] == 8192


def test_a_variant_keeps_its_own_files_and_its_lineage(shop: Shop, tmp_path: Path) -> None:
    fill(shop)
    release = shop.cut("1.0")
    folder = tmp_path / "int4"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "sub" / "w.bin").write_bytes(b"weights")

    def add(name: str = "int4") -> variants.Variant:
        return variants.add_variant(
            shop.database,
            shop.store,
            release.id,
            folder,
            name=name,
            format="onnx",
            precision="int4",
            lineage={"recipe": "rtn-int4"},
            created_by="li",
        )

    made = add()
    assert add().id == made.id
    lineage = json.loads(made.lineage)
    assert lineage == {
        "recipe": "rtn-int4",
        "release": release.id,
        "release_digest": release.digest,
    }
    sweep(shop.database, shop.store, commit_grace_us=0, grace_us=-1)
    variants.fetch(shop.store, made, tmp_path / "out")
    assert (tmp_path / "out" / "sub" / "w.bin").read_bytes() == b"weights"
    (folder / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(Conflict, match="choose a new name"):
        add()
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(BadRequest, match="link"):
        add("with-link")
    assert list(shop.store.spool.iterdir()) == []
    with shop.database.reading() as session:
        assert [item.name for item in variants.listed(session, release.id)] == ["int4"]
