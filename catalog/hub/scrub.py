"""Is every visible revision whole? Walks from the refs down and computes every name again.

Together with `catalog.artifacts.scrub`, which reads the bodies, this says that nothing a ref or a release
refers to is missing, half written or changed.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.artifacts import scrub as artifact_scrub
from catalog.artifacts.scrub import Finding
from catalog.artifacts.store import ArtifactStore
from catalog.artifacts.tables import Artifact, Holding
from catalog.ground.database import Database
from catalog.hub import git_objects, trees
from catalog.hub.tables import Commit, Ref, Repo


class _RepoScrub:
    """Looks at one repository; what it finds is in `findings`."""

    def __init__(self, session: Session, repo: Repo, alive: dict[str, int]) -> None:
        self.findings: list[Finding] = []
        self._session = session
        self._repo = repo
        self._alive = alive
        query = select(col(Holding.sha256)).where(
            col(Holding.holder) == repo.id, col(Holding.pinned).is_(True)
        )
        self._pinned = set(session.scalars(query))
        self._trees_seen: set[str] = set()
        self._commits_seen: set[str] = set()

    def _found(self, kind: str, subject: str, detail: str) -> None:
        self.findings.append(Finding(kind, subject, f"{self._repo.full_name}: {detail}"))

    def run(self) -> None:
        query = select(Ref).where(col(Ref.repo_id) == self._repo.id)
        refs = list(self._session.scalars(query))
        if not any(ref.name == "refs/heads/main" for ref in refs):
            self._found("ref_missing", self._repo.id, "there is no main branch")
        for ref in refs:
            self._commit(ref.commit_oid, ref.name)

    def _commit(self, oid: str | None, origin: str) -> None:
        while oid is not None and oid not in self._commits_seen:
            self._commits_seen.add(oid)
            commit = self._session.get(Commit, (self._repo.id, oid))
            if commit is None:
                self._found("commit_missing", oid, f"reached from {origin}")
                return
            actual = git_objects.commit_oid(
                tree=commit.tree_oid,
                parent=commit.parent_oid,
                author=commit.author,
                created_at_us=commit.created_at_us,
                message=commit.message,
            )
            if actual != oid:
                self._found("commit_changed", oid, f"its fields give {actual}")
            self._tree(commit.tree_oid, oid)
            count = len(trees.files(self._session, self._repo.id, commit.tree_oid))
            if count != commit.file_count:
                self._found("commit_count", oid, f"{count} files instead of {commit.file_count}")
            oid = commit.parent_oid

    def _tree(self, oid: str, commit: str) -> None:
        if oid in self._trees_seen:
            return
        self._trees_seen.add(oid)
        entries = trees.read_directory(self._session, self._repo.id, oid)
        actual = git_objects.tree_oid(
            git_objects.Named(name, entry.kind, entry.oid) for name, entry in entries.items()
        )
        if actual != oid:
            self._found("tree_changed", oid, f"its entries give {actual}, in commit {commit}")
        for name, entry in entries.items():
            if entry.kind == "directory":
                self._tree(entry.oid, commit)
            else:
                self._file(name, entry, commit)

    def _file(self, name: str, entry: trees.Entry, commit: str) -> None:
        sha256 = entry.sha256 or ""
        if self._alive.get(sha256) != entry.size_bytes:
            self._found("body_missing", sha256, f"{name} in commit {commit}")
        if sha256 not in self._pinned:
            self._found("body_unpinned", sha256, f"{name} in commit {commit}")
        if entry.is_lfs and git_objects.pointer_oid(sha256, entry.size_bytes) != entry.oid:
            self._found("pointer_changed", entry.oid, f"{name} in commit {commit}")


def scrub(database: Database, store: ArtifactStore) -> list[Finding]:
    """Return everything that is wrong, from refs down to the bytes of every body."""
    findings: list[Finding] = []
    with database.reading() as session:
        query = select(Artifact).where(col(Artifact.condemned_at_us).is_(None))
        alive = {artifact.sha256: artifact.size_bytes for artifact in session.scalars(query)}
        for repo in session.scalars(select(Repo)).all():
            one = _RepoScrub(session, repo, alive)
            one.run()
            findings += one.findings
    return findings + artifact_scrub.scrub(database, store)
