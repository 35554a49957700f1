"""Commits in their order, and who touched a path last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlmodel import Session

from catalog.hub import trees
from catalog.hub.tables import Commit

LOOK_BACK_COMMITS = 500
"""How far `last_changes` goes; what is older is shown with the oldest commit looked at."""


def ancestors(session: Session, commit: Commit) -> Iterator[Commit]:
    """Yield a commit, its parent, and so on to the first."""
    current: Commit | None = commit
    while current is not None:
        yield current
        parent = current.parent_oid
        current = session.get(Commit, (current.repo_id, parent)) if parent else None


def last_changes(session: Session, commit: Commit, paths: Iterable[str]) -> dict[str, Commit]:
    """Return, for each path at `commit`, the newest commit that changed it.

    Walks back and compares: a folder whose oid is unchanged needs no second look.
    """
    waiting = {path: trees.lookup(session, commit.repo_id, commit.tree_oid, path) for path in paths}
    found: dict[str, Commit] = {}
    newer = commit
    for distance, older in enumerate(ancestors(session, commit)):
        if not waiting or distance > LOOK_BACK_COMMITS:
            break
        if older.oid == newer.oid or older.tree_oid == newer.tree_oid:
            newer = older
            continue
        for path, entry in list(waiting.items()):
            if trees.lookup(session, commit.repo_id, older.tree_oid, path) != entry:
                found[path] = newer
                del waiting[path]
        newer = older
    return found | dict.fromkeys(waiting, newer)
