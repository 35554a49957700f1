"""Rows as the JSON that the clients parse. Dates end in `Z`: `+00:00` makes them raise."""

from __future__ import annotations

import json
from typing import Any

from catalog.ground.clock import to_iso
from catalog.hub import cards, git_objects
from catalog.hub.tables import Commit, Pull, Ref, Repo
from catalog.hub.trees import Entry, PathEntry


def lfs_of(entry: Entry) -> dict[str, Any]:
    """Return the `lfs` object of a tree entry: here the hash is called `oid`."""
    size = len(git_objects.pointer(entry.sha256 or "", entry.size_bytes))
    return {"oid": entry.sha256, "size": entry.size_bytes, "pointerSize": size}


def tree_item(item: PathEntry, last: Commit | None = None) -> dict[str, Any]:
    """Return an entry of a tree or paths-info answer."""
    entry = item.entry
    document: dict[str, Any] = {
        "type": entry.kind,
        "oid": entry.oid,
        "size": entry.size_bytes,
        "path": item.path,
    }
    if entry.is_lfs:
        document["lfs"] = lfs_of(entry)
    if last is not None:
        date = to_iso(last.created_at_us)
        document["lastCommit"] = {"id": last.oid, "title": last.title, "date": date}
    return document


def sibling(path: str, entry: Entry, *, blobs: bool) -> dict[str, Any]:
    """Return a file of `model_info`: here the LFS hash is called `sha256`."""
    if not blobs:
        return {"rfilename": path}
    document: dict[str, Any] = {"rfilename": path, "size": entry.size_bytes, "blobId": entry.oid}
    if entry.is_lfs:
        lfs = lfs_of(entry)
        document["lfs"] = {
            "sha256": entry.sha256,
            "size": entry.size_bytes,
            "pointerSize": lfs["pointerSize"],
        }
    return document


def _tags_of(card: dict[str, Any]) -> list[str]:
    tags = cards.texts(card.get("tags"))
    for key in ("pipeline_tag", "library_name"):
        tags += cards.texts(card.get(key))
    tags += cards.texts(card.get("language"))
    tags += [f"license:{name}" for name in cards.texts(card.get("license"))]
    tags += [f"base_model:{name}" for name in cards.texts(card.get("base_model"))]
    return list(dict.fromkeys(tags))


def repo_item(repo: Repo, *, inside: bool = True) -> dict[str, Any]:
    """Return what a list of models says of one; without `inside` no word of its card.

    The tags, by which lists are filtered, are made from the card as the Hub makes them.
    """
    card = json.loads(repo.card) if inside else {}
    pipeline, library = card.get("pipeline_tag"), card.get("library_name")
    return {
        "_id": repo.id,
        "id": repo.full_name,
        "modelId": repo.full_name,
        "author": repo.org,
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": repo.disabled,
        "downloads": repo.downloads,
        "likes": 0,
        "tags": _tags_of(card),
        "createdAt": to_iso(repo.created_at_us),
        "lastModified": to_iso(repo.updated_at_us),
        **({"pipeline_tag": pipeline} if isinstance(pipeline, str) else {}),
        **({"library_name": library} if isinstance(library, str) else {}),
    }


def model_info(
    repo: Repo, commit: Commit, files: dict[str, Entry], *, blobs: bool
) -> dict[str, Any]:
    """Return `model_info` of a repository at a commit."""
    facts = json.loads(repo.facts)
    parameters = facts.get("parameters") or {}
    document = repo_item(repo) | {
        "sha": commit.oid,
        "lastModified": to_iso(commit.created_at_us),
        "cardData": json.loads(repo.card),
        "config": facts.get("config") or {},
        "spaces": [],
        "usedStorage": sum(entry.size_bytes for entry in files.values()),
        "siblings": [sibling(path, entry, blobs=blobs) for path, entry in files.items()],
    }
    if parameters:
        document["safetensors"] = {"parameters": parameters, "total": sum(parameters.values())}
    return document


def commit_item(commit: Commit) -> dict[str, Any]:
    """Return a commit of the history."""
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message.partition("\n\n")[2],
        "date": to_iso(commit.created_at_us),
        "authors": [{"user": commit.author}],
    }


def ref_item(ref: Ref) -> dict[str, Any]:
    """Return a branch, tag or pull request ref; pull requests keep their full name."""
    kind = ref.name.split("/")[1]
    name = ref.name if kind == "pr" else ref.name.split("/", 2)[2]
    return {"name": name, "ref": ref.name, "targetCommit": ref.commit_oid}


def pull_item(repo: Repo, pull: Pull) -> dict[str, Any]:
    """Return a pull request as a list of discussions shows it."""
    return {
        "num": pull.number,
        "title": pull.title,
        "status": pull.status,
        "author": {"name": pull.author},
        "isPullRequest": True,
        "createdAt": to_iso(pull.created_at_us),
        "repo": {"name": repo.full_name, "type": "model"},
    }
