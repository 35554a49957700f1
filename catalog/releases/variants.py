"""Builds of a release for other devices. Each keeps its own bodies and says what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.artifacts import registry
from catalog.artifacts.digest import files_digest
from catalog.artifacts.sql import join_writers
from catalog.artifacts.staging import Staged
from catalog.artifacts.store import ArtifactStore
from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.hub.names import check_path
from catalog.releases import releases
from catalog.releases.tables import Variant

_PIECE_BYTES = 1 << 20


def _stage(store: ArtifactStore, path: Path) -> Staged:
    with path.open("rb") as stream, store.stage() as staging:
        while piece := stream.read(_PIECE_BYTES):
            staging.write(piece)
        return staging.finish()


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise BadRequest(
                f"{path.name} is a link; a variant has plain files.", rule="variants.files"
            )
        if path.is_file():
            yield check_path(path.relative_to(folder).as_posix()), path


def add_variant(
    database: Database,
    store: ArtifactStore,
    release_id: str,
    folder: Path,
    *,
    name: str,
    format: str,
    precision: str,
    lineage: dict[str, Any],
    created_by: str,
    clock: Clock = now_us,
) -> Variant:
    """Store the files of `folder` as a variant of a release and return it.

    `lineage` says how it was made (recipe, its digest, tools and versions); the release's id and digest
    are written into it here. The same name with the same files is the same variant; with others `Conflict`.
    """
    with ExitStack() as cleanup:
        staged = {}
        for path, file in _files_of(folder):
            staged[path] = _stage(store, file)
            cleanup.callback(staged[path].discard)
        if not staged:
            raise BadRequest("The variant's folder has no files.", rule="variants.files")
        for body in staged.values():
            store.publish(body)
        with database.session() as session:
            join_writers(session)
            release = releases.get(session, release_id)
            digest = files_digest({path: body.sha256 for path, body in staged.items()})
            existing = _find(session, release_id, name)
            if existing is not None:
                if existing.digest == digest:
                    return existing
                raise Conflict(
                    f"Release {release.version} has another variant {name}.",
                    code="variant_exists",
                    rule="variants.name",
                    remedy="Variants never change: choose a new name.",
                )
            files = [
                {"path": path, "sha256": body.sha256, "size_bytes": body.size_bytes}
                for path, body in staged.items()
            ]
            variant = Variant(
                id=new_id("var"),
                release_id=release.id,
                name=name,
                format=format,
                precision=precision,
                digest=digest,
                size_bytes=sum(body.size_bytes for body in staged.values()),
                files=json.dumps(files, ensure_ascii=False),
                lineage=json.dumps(
                    lineage | {"release": release.id, "release_digest": release.digest},
                    ensure_ascii=False,
                ),
                created_by=created_by,
                created_at_us=clock(),
            )
            session.add(variant)
            kept = registry.register(session, store, staged.values(), now_us=variant.created_at_us)
            registry.hold(
                session, list(kept.values()), holder=variant.id, account=release.org, pinned=True
            )
            return variant


def _find(session: Session, release_id: str, name: str) -> Variant | None:
    query = select(Variant).where(col(Variant.release_id) == release_id, col(Variant.name) == name)
    return session.scalars(query).first()


def listed(session: Session, release_id: str) -> list[Variant]:
    """Return the variants of a release by name."""
    query = select(Variant).where(col(Variant.release_id) == release_id)
    return list(session.scalars(query.order_by(col(Variant.name))))


def get(session: Session, variant_id: str) -> Variant:
    """Return a variant; `NotFound` when there is none of that id."""
    variant = session.get(Variant, variant_id)
    if variant is None:
        raise NotFound(f"There is no variant {variant_id}.", code="variant_not_found")
    return variant


def fetch(store: ArtifactStore, variant: Variant, folder: Path) -> None:
    """Write a variant's files into `folder`, from the store."""
    for item in json.loads(variant.files):
        target = folder / item["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.open(item["sha256"]) as reader, target.open("wb") as stream:
            for first in range(0, reader.size_bytes, _PIECE_BYTES):
                stream.write(reader.read(first, _PIECE_BYTES))
