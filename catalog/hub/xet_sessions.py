"""Xet uploads in progress: where their xorbs lie and how long.

A client remembers, per upload address, which chunks it has sent, and leaves them out in a later run. So the
address carries a session:

    token ──► the caller's open session for this repository, or a new one
    xorbs ──► spool/xet/<session>/<hash>
    shard accepted ──► closed: the next token opens another, and everything is sent anew

A client that was killed half-way gets the same session back and sends only what is missing. Xorbs of a
closed session stay a while for shards still to come, then the sweep removes them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import select, update
from sqlmodel import Session, col

from catalog.artifacts.store import ArtifactStore
from catalog.ground.clock import DAY_US, HOUR_US
from catalog.ground.database import Database
from catalog.ground.errors import Forbidden
from catalog.ground.ids import new_id
from catalog.hub.tables import Repo, XetSession

CLOSED_KEEP_US = HOUR_US
OPEN_KEEP_US = DAY_US


def folder(store: ArtifactStore, session_id: str) -> Path:
    """Return where a session's xorbs lie."""
    return store.spool / "xet" / session_id


def open_session(session: Session, repo: Repo, caller: str, *, now_us: int) -> XetSession:
    """Return the caller's unfinished session for a repository, or a new one."""
    query = (
        select(XetSession)
        .where(
            col(XetSession.repo_id) == repo.id,
            col(XetSession.caller) == caller,
            col(XetSession.closed_at_us).is_(None),
            col(XetSession.touched_at_us) > now_us - OPEN_KEEP_US,
        )
        .order_by(col(XetSession.touched_at_us).desc())
    )
    found = session.scalars(query).first()
    if found is None:
        found = XetSession(id=new_id("xet"), repo_id=repo.id, caller=caller, touched_at_us=now_us)
        session.add(found)
    found.touched_at_us = now_us
    return found


def get(session: Session, session_id: str, repo_id: str, caller: str) -> XetSession:
    """Return a session that belongs to this repository and caller.

    A refreshed token may name a newer session than the address the client goes on using: fine, as long as
    both are the same caller's for the same repository.
    """
    found = session.get(XetSession, session_id)
    if found is None or (found.repo_id, found.caller) != (repo_id, caller):
        raise Forbidden("This upload session is not yours.", code="link_invalid", rule="hub.xet")
    return found


def received(session: Session, session_id: str, more_bytes: int, *, now_us: int) -> None:
    """Count bytes of a session."""
    values = {
        "received_bytes": col(XetSession.received_bytes) + more_bytes,
        "touched_at_us": now_us,
    }
    session.execute(update(XetSession).where(col(XetSession.id) == session_id).values(values))


def sweep(database: Database, store: ArtifactStore, *, now_us: int) -> int:
    """Remove sessions that are over or were given up, with their xorbs; return how many."""
    with database.session() as session:
        gone = _forget(session, now_us)
    for session_id in gone:  # gigabytes perhaps: nobody who writes waits for it
        shutil.rmtree(folder(store, session_id), ignore_errors=True)
    return len(gone)


def _forget(session: Session, now_us: int) -> list[str]:
    over = col(XetSession.closed_at_us).is_not(None) & (
        col(XetSession.touched_at_us) < now_us - CLOSED_KEEP_US
    )
    silent = col(XetSession.touched_at_us) < now_us - OPEN_KEEP_US
    gone = list(session.scalars(select(XetSession).where(over | silent)))
    for row in gone:
        session.delete(row)
    return [row.id for row in gone]
