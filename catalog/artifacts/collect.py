"""Garbage collection: what nobody holds is condemned, and removed when it still is a while later.

    held ── last holding ends ──► unheld ── collect ──► condemned ── grace, collect ──► removed
                                    ▲                        │
                                    └──── uploaded again ────┘

A condemned artifact counts as absent for every new reference, so between the two steps nothing can come
to refer to it without bringing its bytes again, which clears the mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, CursorResult, delete, exists, func, select, update
from sqlmodel import col

from catalog.artifacts.sql import lock_out_writers
from catalog.artifacts.store import ArtifactStore
from catalog.artifacts.tables import Artifact, Holding, Tensor
from catalog.ground.clock import HOUR_US, Clock, now_us
from catalog.ground.database import Database

_BATCH = 100


@dataclass(slots=True)
class Collected:
    """What one run did: counts of rows and files, and bytes given back."""

    lapsed: int = 0
    condemned: int = 0
    removed: int = 0
    removed_bytes: int = 0
    strays: int = 0
    spooled: int = 0


def _unheld() -> ColumnElement[bool]:
    return ~exists().where(col(Holding.sha256) == col(Artifact.sha256))


def _rows(result: object) -> int:
    return result.rowcount if isinstance(result, CursorResult) else 0


def _condemn(database: Database, at_us: int, done: Collected) -> None:
    with database.session() as session:
        lock_out_writers(session)
        lapsed = session.execute(
            delete(Holding).where(
                col(Holding.pinned).is_(False), col(Holding.leased_until_us) < at_us
            )
        )
        marked = session.execute(
            update(Artifact)
            .where(col(Artifact.condemned_at_us).is_(None), _unheld())
            .values(condemned_at_us=at_us)
        )
        done.lapsed += _rows(lapsed)
        done.condemned += _rows(marked)


def _remove_batch(
    database: Database, store: ArtifactStore, before_us: int, done: Collected
) -> bool:
    with database.session() as session:
        lock_out_writers(session)
        query = (
            select(Artifact)
            .where(col(Artifact.condemned_at_us) <= before_us, _unheld())
            .limit(_BATCH)
        )
        doomed = list(session.scalars(query))
        for artifact in doomed:
            # File first: killed here, the row stays condemned and the next run finishes the work.
            store.delete(artifact.sha256)
            session.execute(delete(Tensor).where(col(Tensor.sha256) == artifact.sha256))
            session.delete(artifact)
            done.removed += 1
            done.removed_bytes += artifact.size_bytes
    return len(doomed) == _BATCH


def _remove_strays(
    database: Database, store: ArtifactStore, before_us: int, done: Collected
) -> None:
    old = [stored.sha256 for stored in store.walk() if stored.modified_at_us < before_us]
    for first in range(0, len(old), _BATCH):
        part = old[first : first + _BATCH]
        with database.session() as session:
            lock_out_writers(session)
            known = set(
                session.scalars(select(col(Artifact.sha256)).where(col(Artifact.sha256).in_(part)))
            )
            for sha256 in set(part) - known:
                store.delete(sha256)
                done.strays += 1


def _empty_spool(spool: Path, before_us: int, done: Collected) -> None:
    for path in sorted(spool.rglob("*"), reverse=True):
        try:
            if path.stat().st_mtime_ns // 1000 >= before_us:
                continue
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
                done.spooled += 1
        except OSError:
            continue  # gone meanwhile, or a folder that is not empty: somebody is at work there


def collect(
    database: Database,
    store: ArtifactStore,
    *,
    grace_us: int = HOUR_US,
    spool_grace_us: int = 24 * HOUR_US,
    clock: Clock = now_us,
) -> Collected:
    """Run once. `grace_us` lies between condemning and removing, and protects files without a row;
    `spool_grace_us` is how long a silent unfinished upload is kept.
    """
    done = Collected()
    at_us = clock()
    _condemn(database, at_us, done)
    while _remove_batch(database, store, at_us - grace_us, done):
        pass
    _remove_strays(database, store, at_us - grace_us, done)
    _empty_spool(store.spool, at_us - spool_grace_us, done)
    return done


def in_use(database: Database) -> int:
    """Return how many artifacts are content now."""
    with database.reading() as session:
        alive = select(func.count()).where(col(Artifact.condemned_at_us).is_(None))
        return int(session.scalar(alive) or 0)
