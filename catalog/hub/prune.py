"""What no ref reaches goes away: commits, then trees, then the pins on bodies; the store does the rest.

    refs (branches, tags, pull requests, releases) ──► commits and their ancestors ──► trees ──► bodies

`sweep` is the whole housekeeping, safe to run beside a working server and to kill at any moment: every step
is one transaction, and what it left undone is found again by the next run.
"""

from __future__ import annotations

from sqlalchemy import delete, exists, select, update
from sqlmodel import Session, col

from catalog.artifacts.collect import Collected, collect
from catalog.artifacts.sql import lock_out_writers
from catalog.artifacts.store import ArtifactStore
from catalog.artifacts.tables import Holding
from catalog.ground.clock import DAY_US, HOUR_US, Clock, now_us
from catalog.ground.database import Database
from catalog.hub import git_objects, xet_sessions
from catalog.hub.tables import Commit, Ref, TreeEntry

COMMIT_GRACE_US = 7 * DAY_US
"""How long a commit stays readable by its id after its last branch was deleted."""


def _reachable(
    session: Session, repo_id: str, commits: dict[str, Commit], keep_after_us: int
) -> set[str]:
    waiting = list(session.scalars(select(col(Ref.commit_oid)).where(col(Ref.repo_id) == repo_id)))
    waiting += [oid for oid, commit in commits.items() if commit.created_at_us >= keep_after_us]
    reached: set[str] = set()
    while waiting:
        oid = waiting.pop()
        if oid in reached or oid not in commits:
            continue
        reached.add(oid)
        parent = commits[oid].parent_oid
        if parent is not None:
            waiting.append(parent)
    return reached


def _live_trees(session: Session, repo_id: str, roots: set[str]) -> set[str]:
    below: dict[str, list[str]] = {}
    query = select(col(TreeEntry.tree_oid), col(TreeEntry.oid)).where(
        col(TreeEntry.repo_id) == repo_id, col(TreeEntry.kind) == "directory"
    )
    for tree_oid, child in session.execute(query):
        below.setdefault(tree_oid, []).append(child)
    live: set[str] = set()
    waiting = list(roots)
    while waiting:
        oid = waiting.pop()
        if oid not in live:
            live.add(oid)
            waiting.extend(below.get(oid, []))
    return live


def prune_repo(session: Session, repo_id: str, *, keep_after_us: int) -> int:
    """Delete what no ref of a repository reaches and return how many commits went."""
    lock_out_writers(session)
    query = select(Commit).where(col(Commit.repo_id) == repo_id)
    commits = {commit.oid: commit for commit in session.scalars(query)}
    reached = _reachable(session, repo_id, commits, keep_after_us)
    gone = commits.keys() - reached
    if not gone:
        return 0
    for oid in gone:
        session.delete(commits[oid])
    live = _live_trees(session, repo_id, {commits[oid].tree_oid for oid in reached})
    stored = session.scalars(
        select(col(TreeEntry.tree_oid)).where(col(TreeEntry.repo_id) == repo_id).distinct()
    )
    for oid in set(stored) - live - {git_objects.EMPTY_TREE}:
        session.execute(
            delete(TreeEntry).where(
                col(TreeEntry.repo_id) == repo_id, col(TreeEntry.tree_oid) == oid
            )
        )
    named = exists().where(
        col(TreeEntry.repo_id) == repo_id, col(TreeEntry.sha256) == col(Holding.sha256)
    )
    # Only unpinned, not let go: an upload may have leased the same body meanwhile.
    mine = (col(Holding.holder) == repo_id, col(Holding.pinned).is_(True), ~named)
    session.execute(update(Holding).where(*mine).values(pinned=False))
    return len(gone)


def sweep(
    database: Database,
    store: ArtifactStore,
    *,
    commit_grace_us: int = COMMIT_GRACE_US,
    grace_us: int = HOUR_US,
    spool_grace_us: int = DAY_US,
    clock: Clock = now_us,
) -> Collected:
    """Prune every repository, end old Xet sessions, and collect the store's garbage."""
    with database.session() as session:
        repo_ids = list(session.scalars(select(col(Commit.repo_id)).distinct()))
    for repo_id in repo_ids:
        with database.session() as session:
            prune_repo(session, repo_id, keep_after_us=clock() - commit_grace_us)
    xet_sessions.sweep(database, store, now_us=clock())
    return collect(database, store, grace_us=grace_us, spool_grace_us=spool_grace_us, clock=clock)
