"""Branches and tags: names that point at commits, and what a revision means."""

from __future__ import annotations

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.artifacts.sql import insert_missing
from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.hub import names
from catalog.hub.tables import Commit, Ref, Repo

MAIN = "refs/heads/main"


def revision_not_found(revision: str) -> NotFound:
    """Return the answer for a revision that is not there."""
    return NotFound(f"Revision {revision} not found.", code="revision_not_found", rule="hub.refs")


def find_ref(session: Session, repo: Repo, revision: str, *, lock: bool = False) -> Ref | None:
    """Return the ref that a revision names; with `lock` nobody else moves it until we commit."""
    for name in names.ref_candidates(revision):
        ref = session.get(Ref, (repo.id, name), with_for_update=lock, populate_existing=lock)
        if ref is not None:
            return ref
    return None


def resolve(session: Session, repo: Repo, revision: str) -> Commit:
    """Return the commit that a branch, a tag, a full ref or a 40-hex id names; else `NotFound`."""
    ref = find_ref(session, repo, revision)
    oid = ref.commit_oid if ref is not None else revision
    commit = session.get(Commit, (repo.id, oid)) if ref or names.is_commit(revision) else None
    if commit is None:
        raise revision_not_found(revision)
    return commit


def list_refs(session: Session, repo: Repo) -> list[Ref]:
    """Return every ref of a repository by name."""
    query = select(Ref).where(col(Ref.repo_id) == repo.id).order_by(col(Ref.name))
    return list(session.scalars(query))


def create(
    session: Session, repo: Repo, name: str, commit: Commit, *, now_us: int, message: str = ""
) -> Ref:
    """Create a full ref name; `Conflict` when it exists."""
    names.check_ref_part(name.split("/", 2)[2])
    if session.get(Ref, (repo.id, name)) is not None:
        raise Conflict(f"Reference {name} already exists.", code="ref_exists", rule="hub.refs")
    row = {
        "repo_id": repo.id,
        "name": name,
        "commit_oid": commit.oid,
        "message": message,
        "created_at_us": now_us,
    }
    insert_missing(session, Ref, [row])
    return session.get_one(Ref, (repo.id, name))


def delete(session: Session, repo: Repo, name: str) -> None:
    """Delete a full ref name; the default branch stays, `NotFound` when there is no such ref."""
    if name == MAIN:
        raise BadRequest("The default branch cannot be deleted.", rule="hub.refs")
    ref = session.get(Ref, (repo.id, name))
    if ref is None:
        raise revision_not_found(name)
    session.delete(ref)
