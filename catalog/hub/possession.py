"""Whose bytes may be named in a commit: a digest is not a secret, so knowing it gives no right to the bytes.

A caller may put a body into a repository without sending it only when that repository holds it already, or
when another repository holds it whose files this caller may read.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.artifacts import registry
from catalog.artifacts.tables import Artifact, Holding
from catalog.hub.access import Gate, is_member, may_see, refused
from catalog.hub.identity import Caller
from catalog.hub.tables import Repo


def _may_read(session: Session, repo: Repo, caller: Caller | None, gate: Gate) -> bool:
    if not may_see(repo, caller) or (repo.disabled and not is_member(repo.org, caller)):
        return False
    return refused(session, repo, caller, gate) is None


def usable(
    session: Session, repo: Repo, digests: Iterable[str], caller: Caller | None, gate: Gate
) -> dict[str, Artifact]:
    """Return the artifacts among `digests` that the caller may name in a commit to `repo`."""
    present = registry.find(session, digests)
    mine = registry.held(session, [repo.id], present)
    missing = sorted(present.keys() - mine)
    readable: dict[str, bool] = {}
    for first in range(0, len(missing), 500):
        query = (
            select(col(Holding.sha256), Repo)
            .join(Repo, col(Repo.id) == col(Holding.holder))
            .where(col(Holding.sha256).in_(missing[first : first + 500]))
        )
        for sha256, other in session.execute(query):
            if other.id not in readable:
                readable[other.id] = _may_read(session, other, caller, gate)
            if readable[other.id]:
                mine.add(sha256)
    return {sha256: present[sha256] for sha256 in mine}
