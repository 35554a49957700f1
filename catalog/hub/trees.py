"""Directories: reading one, walking all, and writing changed ones anew.

A directory is immutable and named by its git oid; an edit writes new rows only along the changed paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import exists, select
from sqlmodel import Session, col

from catalog.artifacts.sql import insert_missing
from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.hub import git_objects
from catalog.hub.names import check_path
from catalog.hub.tables import TreeEntry


class Entry(NamedTuple):
    """A file or a directory; `sha256` is None for a directory."""

    kind: str
    oid: str
    sha256: str | None
    size_bytes: int
    is_lfs: bool


class PathEntry(NamedTuple):
    """An entry and where it is."""

    path: str
    entry: Entry


def read_directory(session: Session, repo_id: str, tree_oid: str) -> dict[str, Entry]:
    """Return the entries of one directory by name."""
    query = select(TreeEntry).where(
        col(TreeEntry.repo_id) == repo_id, col(TreeEntry.tree_oid) == tree_oid
    )
    return {
        row.name: Entry(row.kind, row.oid, row.sha256, row.size_bytes, row.is_lfs)
        for row in session.scalars(query)
    }


def lookup(session: Session, repo_id: str, root: str, path: str) -> Entry | None:
    """Return what is at `path` below the directory `root`, or None; `""` is the directory itself."""
    found = Entry("directory", root, None, 0, False)
    for name in path.split("/") if path else []:
        if found.kind != "directory":
            return None
        row = session.get(TreeEntry, (repo_id, found.oid, name))
        if row is None:
            return None
        found = Entry(row.kind, row.oid, row.sha256, row.size_bytes, row.is_lfs)
    return found


def walk(
    session: Session, repo_id: str, tree_oid: str, *, prefix: str = "", recursive: bool = True
) -> Iterator[PathEntry]:
    """Yield entries below a directory in the order of their names, a directory before its content."""
    for name, entry in sorted(read_directory(session, repo_id, tree_oid).items()):
        yield PathEntry(prefix + name, entry)
        if recursive and entry.kind == "directory":
            yield from walk(session, repo_id, entry.oid, prefix=f"{prefix}{name}/")


def files(session: Session, repo_id: str, tree_oid: str) -> dict[str, Entry]:
    """Return every file below a directory by path."""
    return {path: entry for path, entry in walk(session, repo_id, tree_oid) if entry.kind == "file"}


@dataclass
class _Folder:
    entries: dict[str, Entry]
    opened: dict[str, _Folder] = field(default_factory=dict)
    folded: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folded = {name.casefold(): name for name in self.entries}

    def names(self) -> set[str]:
        return self.entries.keys() | self.opened.keys()


class TreeEditor:
    """Edits the tree `root` of a repository in memory; `write` stores what changed.

    Paths are checked here, so nothing can enter a tree under a name that `names.py` refuses.
    `file_delta` is how many files there are more than before.
    """

    def __init__(self, session: Session, repo_id: str, root: str) -> None:
        self._session = session
        self._repo_id = repo_id
        self._root = _Folder(read_directory(session, repo_id, root))
        self.file_delta = 0

    def _open(self, folder: _Folder, name: str) -> _Folder | None:
        if name not in folder.opened:
            entry = folder.entries.get(name)
            if entry is None or entry.kind != "directory":
                return None
            folder.opened[name] = _Folder(read_directory(self._session, self._repo_id, entry.oid))
        return folder.opened[name]

    def _claim(self, folder: _Folder, name: str, path: str) -> None:
        other = folder.folded.setdefault(name.casefold(), name)
        if other != name and other in folder.names():
            raise Conflict(
                f"{path!r} and {other!r} differ only in letter case.",
                code="path_case_conflict",
                rule="hub.paths",
                remedy="Delete or rename one of them; many disks can hold only one.",
                details={"path": path, "existing": other},
            )
        folder.folded[name.casefold()] = name

    def put(self, path: str, entry: Entry) -> None:
        """Add or replace a file."""
        *parents, name = check_path(path).split("/")
        folder = self._root
        for parent in parents:
            self._claim(folder, parent, path)
            below = self._open(folder, parent)
            if below is None:
                if parent in folder.entries:
                    raise BadRequest(
                        f"{path!r} needs a folder where the file {parent!r} is.",
                        code="path_invalid",
                        rule="hub.paths",
                    )
                below = folder.opened[parent] = _Folder({})
            folder = below
        if self._open(folder, name) is not None:
            raise BadRequest(
                f"{path!r} is a folder; a file cannot take its place.",
                code="path_invalid",
                rule="hub.paths",
            )
        self._claim(folder, name, path)
        self.file_delta += name not in folder.entries
        folder.entries[name] = entry

    def delete(self, path: str, *, kind: str) -> None:
        """Remove a file or a whole folder (`kind`); `BadRequest` when there is none."""
        *parents, name = path.strip("/").split("/")
        folder: _Folder | None = self._root
        above: list[tuple[_Folder, str]] = []
        for parent in parents:
            if folder is not None:
                above.append((folder, parent))
                folder = self._open(folder, parent)
        if kind == "directory" and folder is not None:
            self._open(folder, name)
        held = folder.opened if folder is not None and kind == "directory" else None
        entry = folder.entries.get(name) if folder is not None else None
        if folder is None or not ((held and name in held) or (entry and entry.kind == kind)):
            raise NotFound(
                f"There is no {'file' if kind == 'file' else 'folder'} {path!r} to delete.",
                code="entry_not_found",
                rule="hub.paths",
            )
        below = folder.opened.pop(name, None)
        self.file_delta -= self._count(below) if below is not None else 1
        folder.entries.pop(name, None)
        for outer, parent in reversed(above):  # a folder without files is none: its name is free
            if not outer.opened[parent].names():
                del outer.opened[parent]
                outer.entries.pop(parent, None)

    def _count(self, folder: _Folder) -> int:
        total = 0
        for name in folder.names():
            below = self._open(folder, name)
            total += self._count(below) if below is not None else 1
        return total

    def write(self) -> str:
        """Store every changed directory and return the oid of the root."""
        return self._write(self._root)

    def _write(self, folder: _Folder) -> str:
        for name, below in folder.opened.items():
            oid = self._write(below)
            if oid == git_objects.EMPTY_TREE:
                folder.entries.pop(name, None)
            else:
                folder.entries[name] = Entry("directory", oid, None, 0, False)
        oid = git_objects.tree_oid(
            git_objects.Named(name, entry.kind, entry.oid) for name, entry in folder.entries.items()
        )
        known = exists().where(
            col(TreeEntry.repo_id) == self._repo_id, col(TreeEntry.tree_oid) == oid
        )
        if not self._session.scalar(select(known)):
            rows = [
                {"repo_id": self._repo_id, "tree_oid": oid, "name": name, **entry._asdict()}
                for name, entry in folder.entries.items()
            ]
            insert_missing(self._session, TreeEntry, rows)
        return oid
