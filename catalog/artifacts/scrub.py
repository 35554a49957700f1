"""The integrity scrub: read everything again and compare it with what the database says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlmodel import col

from catalog.artifacts.store import ArtifactStore, BlobReader
from catalog.artifacts.tables import Artifact, Holding
from catalog.ground.database import Database

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `kind` for programs, `subject` the digest or name, `detail` for people."""

    kind: str
    subject: str
    detail: str


def digest_of(reader: BlobReader, start_byte: int = 0, length: int | None = None) -> str:
    """Return the sha256 of a body or a part of it, read in pieces."""
    left = reader.size_bytes - start_byte if length is None else length
    digest = hashlib.sha256()
    while left > 0:
        piece = reader.read(start_byte, min(left, _PIECE_BYTES))
        if not piece:
            break
        digest.update(piece)
        start_byte += len(piece)
        left -= len(piece)
    return digest.hexdigest()


def _check_body(store: ArtifactStore, artifact: Artifact) -> Finding | None:
    try:
        with store.open(artifact.sha256) as reader:
            if reader.size_bytes != artifact.size_bytes:
                return Finding(
                    "artifact_size",
                    artifact.sha256,
                    f"{reader.size_bytes} bytes instead of {artifact.size_bytes}",
                )
            actual = digest_of(reader)
    except FileNotFoundError:
        return Finding("artifact_missing", artifact.sha256, "the row has no file")
    if actual != artifact.sha256:
        return Finding("artifact_corrupt", artifact.sha256, f"the bytes have sha256 {actual}")
    return None


def scrub(
    database: Database, store: ArtifactStore, *, progress: Callable[[int], None] | None = None
) -> list[Finding]:
    """Return everything that is wrong with bodies and holdings; `progress` gets bytes as they are read."""
    findings: list[Finding] = []
    with database.reading() as session:
        artifacts = list(
            session.scalars(select(Artifact).where(col(Artifact.condemned_at_us).is_(None)))
        )
        alive = {artifact.sha256 for artifact in artifacts}
        findings.extend(
            Finding("holding_dangling", holding.sha256, f"held by {holding.holder}")
            for holding in session.scalars(select(Holding))
            if holding.sha256 not in alive
        )
        session.expunge_all()
    for artifact in artifacts:
        finding = _check_body(store, artifact)
        if finding is not None:
            findings.append(finding)
        if progress is not None:
            progress(artifact.size_bytes)
    return findings
