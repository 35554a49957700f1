"""What `main` says of the model, kept beside the repository so that lists need not open files."""

from __future__ import annotations

import json
from typing import Any

from sqlmodel import Session

from catalog.artifacts import registry
from catalog.artifacts.store import ArtifactStore
from catalog.hub import cards, trees
from catalog.hub.tables import Commit, Repo

_MAX_READ_BYTES = 1 << 20
_CONFIG_KEYS = ("architectures", "model_type")


def read_text(store: ArtifactStore, entry: trees.Entry | None) -> str | None:
    """Return a small text file's content, None when it is absent, large or not UTF-8."""
    if entry is None or entry.sha256 is None or entry.size_bytes > _MAX_READ_BYTES:
        return None
    with store.open(entry.sha256) as reader:
        try:
            return reader.read(0, entry.size_bytes).decode()
        except UnicodeDecodeError:
            return None


def read_json(store: ArtifactStore, entry: trees.Entry | None) -> dict[str, Any]:
    """Return a small JSON object file's content, `{}` when it is absent or something else."""
    text = read_text(store, entry)
    try:
        document = cards.plain(json.loads(text)) if text else None
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _parameters(session: Session, entries: dict[str, trees.Entry]) -> dict[str, int]:
    digests = [
        entry.sha256
        for name, entry in entries.items()
        if name.lower().endswith(".safetensors") and entry.sha256 is not None
    ]
    total: dict[str, int] = {}
    for artifact in registry.find(session, digests).values():
        for dtype, count in json.loads(artifact.parameters or "{}").items():
            total[dtype] = total.get(dtype, 0) + count
    return total


def refresh(session: Session, store: ArtifactStore, repo: Repo, head: Commit) -> None:
    """Read card, config and weights at `head` and keep what lists and `model_info` show."""
    entries = trees.read_directory(session, repo.id, head.tree_oid)
    try:
        card = cards.parse(read_text(store, entries.get("README.md")) or "")
    except cards.CardError:
        card = {}
    config = read_json(store, entries.get("config.json"))
    facts = {
        "config": {key: config[key] for key in _CONFIG_KEYS if key in config},
        "parameters": _parameters(session, entries),
    }
    repo.card = json.dumps(card, ensure_ascii=False)
    repo.facts = json.dumps(facts, ensure_ascii=False)
    session.add(repo)
