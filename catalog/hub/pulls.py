"""Pull requests: a numbered ref of its own, merged as one commit."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlmodel import Session, col

from catalog.artifacts.sql import join_writers
from catalog.artifacts.store import ArtifactStore
from catalog.ground.errors import Conflict, NotFound
from catalog.hub import commits, refs, summary, trees
from catalog.hub.identity import Caller
from catalog.hub.tables import Commit, Pull, Ref, Repo


def open_pull(
    session: Session,
    repo: Repo,
    revision: str,
    caller: Caller,
    *,
    title: str,
    description: str,
    draft: bool,
    now_us: int,
) -> tuple[Pull, Ref]:
    """Open a pull request on top of `revision`, with its ref `refs/pr/<number>`.

    The repository is locked (`access.changing`), so that numbers are given one at a time.
    """
    base = refs.resolve(session, repo, revision)
    target = refs.find_ref(session, repo, revision)
    highest = session.scalar(select(func.max(col(Pull.number))).where(col(Pull.repo_id) == repo.id))
    pull = Pull(
        repo_id=repo.id,
        number=(highest or 0) + 1,
        title=title,
        description=description,
        author=caller.name,
        status="draft" if draft else "open",
        target=target.name if target is not None else refs.MAIN,
        base_oid=base.oid,
        created_at_us=now_us,
    )
    session.add(pull)
    session.flush()
    ref = refs.create(session, repo, f"refs/pr/{pull.number}", base, now_us=now_us)
    return pull, ref


def get(session: Session, repo: Repo, number: int) -> Pull:
    """Return a pull request; `NotFound` when there is none of that number."""
    pull = session.get(Pull, (repo.id, number))
    if pull is None:
        raise NotFound(
            f"There is no pull request {number}.", code="pull_not_found", rule="hub.pulls"
        )
    return pull


def listed(session: Session, repo: Repo) -> list[Pull]:
    """Return every pull request, the newest first."""
    query = select(Pull).where(col(Pull.repo_id) == repo.id).order_by(col(Pull.number).desc())
    return list(session.scalars(query))


def set_status(pull: Pull, status: str) -> None:
    """Open or close a pull request that has not been merged."""
    if pull.status == "merged":
        raise Conflict(f"Pull request {pull.number} has been merged.", rule="hub.pulls")
    pull.status = "closed" if status == "closed" else "open"


def merge(
    session: Session, store: ArtifactStore, repo: Repo, pull: Pull, caller: Caller, *, now_us: int
) -> Commit:
    """Apply a pull request's changes to its branch; `Conflict` names the files both have changed."""
    if pull.status in ("merged", "closed"):
        raise Conflict(f"Pull request {pull.number} is {pull.status}.", rule="hub.pulls")
    join_writers(session)
    target = refs.find_ref(session, repo, pull.target, lock=True)
    if target is None:
        raise refs.revision_not_found(pull.target)
    head = session.get_one(Commit, (repo.id, target.commit_oid))
    theirs = trees.files(
        session, repo.id, refs.resolve(session, repo, f"refs/pr/{pull.number}").tree_oid
    )
    base = trees.files(session, repo.id, session.get_one(Commit, (repo.id, pull.base_oid)).tree_oid)
    ours = trees.files(session, repo.id, head.tree_oid)
    changed = [path for path in theirs.keys() | base.keys() if theirs.get(path) != base.get(path)]
    clash = sorted(
        path
        for path in changed
        if ours.get(path) != base.get(path) and ours.get(path) != theirs.get(path)
    )
    if clash:
        raise Conflict(
            f"Pull request {pull.number} and {pull.target} both changed {', '.join(clash[:5])}.",
            code="merge_conflict",
            rule="hub.pulls",
            remedy="Upload these files again on top of the newest commit.",
            details={"paths": clash},
        )
    editor = trees.TreeEditor(session, repo.id, head.tree_oid)
    for path in sorted(changed):
        if path in ours and path not in theirs:
            editor.delete(path, kind="file")
    for path in sorted(changed):
        if path in theirs:
            editor.put(path, theirs[path])
    made = commits.append(
        session,
        repo,
        head,
        tree_oid=editor.write(),
        file_count=head.file_count + editor.file_delta,
        message=f"{pull.title} (#{pull.number})",
        author=caller.name,
        now_us=now_us,
    )
    target.commit_oid = made.oid
    pull.status, pull.merge_oid = "merged", made.oid
    if target.name == refs.MAIN:
        summary.refresh(session, store, repo, made)
        repo.updated_at_us = now_us
    session.add_all([target, pull])
    return made
