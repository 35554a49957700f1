"""Cutting a release, and finding it again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.artifacts import registry, tensors
from catalog.artifacts.sql import insert_missing, join_writers
from catalog.artifacts.store import ArtifactStore
from catalog.artifacts.tables import Tensor
from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.hub import refs, trees
from catalog.hub.tables import Commit, Ref, Repo
from catalog.hub.trees import Entry
from catalog.releases.manifest import describe
from catalog.releases.tables import Release

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    repo: Repo
    commit: Commit
    files: dict[str, Entry]
    parameters: dict[str, dict[str, int]]


def _is_weights(path: str) -> bool:
    return path.lower().endswith(".safetensors")


def _look(database: Database, repo_id: str, revision: str) -> _Snapshot:
    with database.reading() as session:
        repo = session.get_one(Repo, repo_id)
        commit = refs.resolve(session, repo, revision)
        files = trees.files(session, repo.id, commit.tree_oid)
        weights = {path: entry.sha256 or "" for path, entry in files.items() if _is_weights(path)}
        found = registry.find(session, weights.values())
        parameters = {
            path: json.loads(found[sha256].parameters or "{}")
            for path, sha256 in weights.items()
            if sha256 in found
        }
        session.expunge_all()
    return _Snapshot(repo, commit, files, parameters)


def index_weights(database: Database, store: ArtifactStore, files: dict[str, Entry]) -> None:
    """Write the tensor digests of every weights file; the hashing happens outside of a transaction."""
    for path, entry in files.items():
        if not _is_weights(path) or entry.sha256 is None:
            continue
        with database.reading() as session:
            known = tensors.is_indexed(session, entry.sha256)
        if not known:
            rows = tensors.tensor_rows(store, entry.sha256, path)
            with database.session() as session:
                insert_missing(session, Tensor, rows)


def cut(
    database: Database,
    store: ArtifactStore,
    repo_id: str,
    *,
    revision: str = "main",
    version: str | None = None,
    created_by: str,
    clock: Clock = now_us,
) -> Release:
    """Make a release of a revision and return it; the same commit gives the same release again.

    `version` defaults to the first 12 digits of the commit. `Conflict` when the version names another
    commit. Reads every weights file once (about a second per GB).
    """
    seen = _look(database, repo_id, revision)
    version = version or seen.commit.oid[:12]
    if not _VERSION.fullmatch(version):
        raise BadRequest(
            f"{version!r} is not a version.",
            rule="releases.version",
            remedy="Use letters, digits, '.', '_', '+' and '-'.",
        )
    if not seen.files:
        raise BadRequest("An empty revision cannot be released.", rule="releases.files")
    index_weights(database, store, seen.files)
    manifest = describe(store, seen.repo.full_name, seen.files, seen.parameters)
    manifest |= {"commit": seen.commit.oid, "version": version}
    with database.session() as session:
        return _write(session, seen, version, manifest, created_by, clock())


def _write(
    session: Session,
    seen: _Snapshot,
    version: str,
    manifest: dict[str, object],
    created_by: str,
    at_us: int,
) -> Release:
    repo, oid = seen.repo, seen.commit.oid
    # One cut at a time; and both may have gone since we looked.
    found = session.get(Repo, repo.id, with_for_update=True)
    join_writers(session)
    if found is None or session.get(Commit, (repo.id, oid)) is None:
        raise refs.revision_not_found(oid)
    same = (col(Release.repo_id) == repo.id, col(Release.commit_oid) == oid)
    existing = session.scalars(select(Release).where(*same)).first()
    if existing is not None:
        return existing
    taken = (col(Release.repo_id) == repo.id, col(Release.version) == version)
    if session.scalars(select(Release).where(*taken)).first() is not None:
        raise Conflict(
            f"{repo.full_name} has a release {version} of another commit.",
            code="release_exists",
            rule="releases.version",
            remedy="Releases never change: choose a new version.",
        )
    release = Release(
        id=new_id("rel"),
        repo_id=repo.id,
        repo_name=repo.full_name,
        org=repo.org,
        version=version,
        commit_oid=oid,
        digest=str(manifest["digest"]),
        manifest=json.dumps(manifest, ensure_ascii=False),
        created_by=created_by,
        created_at_us=at_us,
    )
    session.add(release)
    bodies = registry.find(session, [entry.sha256 or "" for entry in seen.files.values()])
    registry.hold(session, list(bodies.values()), holder=release.id, account=repo.org, pinned=True)
    ref = {
        "repo_id": repo.id,
        "name": f"refs/releases/{version}",
        "commit_oid": oid,
        "message": "",
        "created_at_us": at_us,
    }
    insert_missing(session, Ref, [ref])
    return release


def get(session: Session, release_id: str) -> Release:
    """Return a release; `NotFound` when there is none of that id."""
    release = session.get(Release, release_id)
    if release is None:
        raise NotFound(f"There is no release {release_id}.", code="release_not_found")
    return release


def listed(session: Session, repo_id: str) -> list[Release]:
    """Return a repository's releases, the newest first."""
    query = select(Release).where(col(Release.repo_id) == repo_id)
    return list(session.scalars(query.order_by(col(Release.created_at_us).desc())))


def named(session: Session, repo_id: str, version: str) -> Release:
    """Return the release of a version, or of its id."""
    query = select(Release).where(
        col(Release.repo_id) == repo_id,
        (col(Release.version) == version) | (col(Release.id) == version),
    )
    release = session.scalars(query).first()
    if release is None:
        raise NotFound(f"There is no release {version} here.", code="release_not_found")
    return release
