"""Commits in their order, and who touched a path last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.hub.tables import Commit, TreeEntry

LOOK_BACK_COMMITS = 500
"""How far `last_changes` goes; what is older is shown with the oldest commit looked at."""


def ancestors(session: Session, commit: Commit) -> Iterator[Commit]:
    """Yield a commit, its parent, and so on to the first."""
    current: Commit | None = commit
    while current is not None:
        yield current
        parent = current.parent_oid
        current = session.get(Commit, (current.repo_id, parent)) if parent else None


class _Looking:
    """Looks the same paths up in one tree after the other, reading each folder once."""

    def __init__(self, session: Session, repo_id: str, paths: list[str]) -> None:
        self._session = session
        self._repo_id = repo_id
        self._names = sorted({name for path in paths for name in path.split("/")})
        self._folders: dict[str, dict[str, tuple[str, str]]] = {}
        self._before = self._folders

    def turn(self) -> None:
        """Begin another tree; what neither it nor the one before has is forgotten."""
        self._before, self._folders = self._folders, {}

    def lookup(self, root: str, path: str) -> tuple[str, str] | None:
        """Return kind and oid of what is at `path` below the directory `root`, or None."""
        found: tuple[str, str] | None = ("directory", root)
        for name in path.split("/") if path else []:
            if found is None or found[0] != "directory":
                return None
            found = self._folder(found[1]).get(name)
        return found

    def _folder(self, oid: str) -> dict[str, tuple[str, str]]:
        if oid not in self._folders:
            known = self._before.get(oid)
            self._folders[oid] = known if known is not None else self._read(oid)
        return self._folders[oid]

    def _read(self, oid: str) -> dict[str, tuple[str, str]]:
        query = select(col(TreeEntry.name), col(TreeEntry.kind), col(TreeEntry.oid)).where(
            col(TreeEntry.repo_id) == self._repo_id,
            col(TreeEntry.tree_oid) == oid,
            col(TreeEntry.name).in_(self._names),
        )
        return {name: (kind, entry) for name, kind, entry in self._session.execute(query)}


def last_changes(session: Session, commit: Commit, paths: Iterable[str]) -> dict[str, Commit]:
    """Return, for each path at `commit`, the newest commit that changed it.

    Walks back and compares: a folder whose oid is unchanged needs no second look.
    """
    asked = list(paths)
    looking = _Looking(session, commit.repo_id, asked)
    waiting = {path: looking.lookup(commit.tree_oid, path) for path in asked}
    found: dict[str, Commit] = {}
    newer = commit
    for distance, older in enumerate(ancestors(session, commit)):
        if not waiting or distance > LOOK_BACK_COMMITS:
            break
        if older.oid == newer.oid or older.tree_oid == newer.tree_oid:
            newer = older
            continue
        looking.turn()
        for path, entry in list(waiting.items()):
            if looking.lookup(older.tree_oid, path) != entry:
                found[path] = newer
                del waiting[path]
        newer = older
    return found | dict.fromkeys(waiting, newer)
