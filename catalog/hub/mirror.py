"""Bring a ready-made model from another hub: one revision, checked, as one commit.

    pin the revision ──► download (resumes) ──► compare every hash ──► one commit ──► compare again

The source is any hub that speaks the protocol, another TokenMart included. What the source says of each
file (sha256 of large ones, git name of small ones) is compared with the bytes that came, and after the
upload with what the destination lists. The commit's message records source, revision, licence and digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.artifacts.digest import files_digest
from catalog.ground.errors import BadRequest, IntegrityError
from catalog.hub import git_objects

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PIECE_BYTES = 1 << 20
_SKIPPED = (".cache/*", ".git/*")


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a mirror run brought. `digest` is that of a release of these files."""

    source: str
    repo_id: str
    source_commit: str
    destination_repo: str
    commit: str
    licence: str
    digest: str
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Brought:
    path: str
    place: Path
    sha256: str
    git_oid: str
    size_bytes: int


def _hash(path: str, place: Path) -> _Brought:
    size = place.stat().st_size
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with place.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            sha256.update(piece)
            blob.update(piece)
    return _Brought(path, place, sha256.hexdigest(), blob.hexdigest(), size)


def _listed(api: HfApi, repo_id: str, commit: str) -> dict[str, Any]:
    tree = api.list_repo_tree(repo_id, revision=commit, recursive=True)
    return {item.path: item for item in tree if hasattr(item, "blob_id")}


def _compare(brought: _Brought, item: Any, where: str) -> None:
    lfs = getattr(item, "lfs", None)
    told = lfs.sha256 if lfs is not None else item.blob_id
    pointer = git_objects.pointer_oid(brought.sha256, brought.size_bytes)
    have = (brought.sha256,) if lfs is not None else (brought.git_oid, pointer)
    if told not in have:
        raise IntegrityError(
            f"{brought.path} is not what {where} says: {told} was announced.",
            rule="hub.mirror",
            remedy="Run the mirror again with an empty work folder.",
        )


def _download(
    api: HfApi, repo_id: str, commit: str, work: Path, patterns: Sequence[str] | None
) -> Iterator[tuple[_Brought, Any]]:
    from huggingface_hub.utils import filter_repo_objects

    listed = _listed(api, repo_id, commit)
    wanted = list(
        filter_repo_objects(listed, allow_patterns=patterns or None, ignore_patterns=_SKIPPED)
    )
    if not wanted:
        raise BadRequest(f"{repo_id} at {commit} has no such files.", rule="hub.mirror")
    folder = api.snapshot_download(
        repo_id, revision=commit, local_dir=work, allow_patterns=patterns or None
    )
    for path in sorted(wanted):
        yield _hash(path, Path(folder) / path), listed[path]


def _licence(card: Any) -> str:
    licence = card.get("license") if card is not None else None
    return str(licence) if licence else "not stated"


def mirror_repo(
    source_endpoint: str,
    repo_id: str,
    revision: str,
    destination_endpoint: str,
    destination_repo: str,
    work: Path,
    *,
    source_key: str | None = None,
    destination_key: str | None = None,
    patterns: Sequence[str] | None = None,
    private: bool = True,
    say: Callable[[str], None] = lambda _line: None,
) -> Mirrored:
    """Bring `repo_id` at `revision` to `destination_repo` and say what came.

    `work` keeps what was downloaded: a run that was cut short goes on there. `patterns` limits the files
    (`*.safetensors`, `*.json`). Files that the destination has already are not sent. Raises `IntegrityError`
    when bytes are not what either side says they are; the destination is then unchanged.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    source = HfApi(endpoint=source_endpoint, token=source_key or False)
    target = HfApi(endpoint=destination_endpoint, token=destination_key)
    info = source.model_info(repo_id, revision=revision)
    commit = str(info.sha)
    say(f"{repo_id} at {revision} is commit {commit}")
    files: list[_Brought] = []
    for brought, item in _download(source, repo_id, commit, work, patterns):
        _compare(brought, item, source_endpoint)
        files.append(brought)
    record = {
        "source": source_endpoint,
        "repo_id": repo_id,
        "source_commit": commit,
        "licence": _licence(info.card_data),
        "digest": files_digest({file.path: file.sha256 for file in files}),
    }
    say(f"{len(files)} files, digest sha256:{record['digest']}, licence {record['licence']}")
    target.create_repo(destination_repo, private=private, exist_ok=True)
    made = target.create_commit(
        destination_repo,
        [CommitOperationAdd(file.path, str(file.place)) for file in files],
        commit_message=f"Mirror {repo_id} at {commit[:12]}",
        commit_description=json.dumps(record, ensure_ascii=False, sort_keys=True),
    )
    kept = _listed(target, destination_repo, made.oid)
    for file in files:
        _compare(file, kept[file.path], destination_endpoint)
    size = sum(file.size_bytes for file in files)
    return Mirrored(
        **record,
        destination_repo=destination_repo,
        commit=made.oid,
        files=len(files),
        size_bytes=size,
    )


def as_row(mirrored: Mirrored) -> dict[str, Any]:
    """Return the result as a row to print."""
    return asdict(mirrored)
