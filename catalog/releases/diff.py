"""What changed from one release to another: files, tensors, facts."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.artifacts.tables import Tensor
from catalog.releases.tables import Release

_FACTS = (
    "architecture",
    "parameters",
    "context_length",
    "tokenizer",
    "chat_template",
    "licence",
    "base_models",
    "base_relation",
    "languages",
    "vertical",
)


def _compare(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[str]]:
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(key for key in old.keys() & new.keys() if old[key] != new[key]),
    }


def _tensors(session: Session, files: dict[str, str]) -> dict[str, str]:
    digests = [sha256 for path, sha256 in files.items() if path.lower().endswith(".safetensors")]
    query = select(Tensor).where(col(Tensor.sha256).in_(digests))
    return {row.name: f"{row.dtype}{row.shape}{row.digest}" for row in session.scalars(query)}


def diff(session: Session, old: Release, new: Release) -> dict[str, Any]:
    """Return `{"files", "tensors", "facts"}`: added, removed and changed names, and old and new facts.

    `tensors` compares by digest over all weights files, so weights that were only sharded anew are equal;
    `same_tensors` counts those that both releases share.
    """
    before, after = json.loads(old.manifest), json.loads(new.manifest)
    old_files = {item["path"]: item["sha256"] for item in before["files"]}
    new_files = {item["path"]: item["sha256"] for item in after["files"]}
    old_tensors, new_tensors = _tensors(session, old_files), _tensors(session, new_files)
    tensors = _compare(old_tensors, new_tensors)
    same = len(new_tensors) - len(tensors["added"]) - len(tensors["changed"])
    facts = {
        name: {"old": before.get(name), "new": after.get(name)}
        for name in _FACTS
        if before.get(name) != after.get(name)
    }
    return {
        "old": {"id": old.id, "version": old.version, "digest": old.digest},
        "new": {"id": new.id, "version": new.version, "digest": new.digest},
        "files": _compare(old_files, new_files),
        "tensors": tensors | {"same": same},
        "facts": facts,
    }
