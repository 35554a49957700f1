"""Creating, moving, deleting and finding repositories."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from catalog.artifacts import registry
from catalog.artifacts.sql import insert_missing, join_writers
from catalog.artifacts.tables import Holding
from catalog.ground.errors import BadRequest, Conflict
from catalog.ground.ids import new_id
from catalog.hub import access, commits, git_objects, names, refs
from catalog.hub.identity import WRITERS, Caller
from catalog.hub.tables import Commit, Pull, Ref, Repo, TreeEntry, XetSession


def default_org(caller: Caller) -> str:
    """Return where a repository goes that was created without a namespace."""
    if caller.name in caller.orgs:
        return caller.name
    for slug, role in caller.orgs.items():
        if role in WRITERS:
            return slug
    raise BadRequest(
        f"{caller.name} belongs to no organisation that may own a repository.",
        rule="hub.names",
        remedy="Name one: org/model.",
    )


def _taken(full_name: str) -> Conflict:
    words = f"There is a repository {full_name} already."
    return Conflict(words, code="repo_exists", rule="hub.names")


def _flush_name(session: Session, repo: Repo) -> None:
    full_name = repo.full_name
    try:
        session.flush()
    except IntegrityError:  # PostgreSQL: somebody took the name since we looked
        raise _taken(full_name) from None


def create(
    session: Session, org: str, name: str, caller: Caller, *, private: bool, now_us: int
) -> Repo:
    """Create a repository with an empty first commit on `main`; `Conflict` when the name is taken."""
    names.check_repo_part(org, "organisation")
    names.check_repo_part(name, "repository name")
    if access.find_repo(session, org, name) is not None:
        raise _taken(f"{org}/{name}")
    row = {
        "id": new_id("repo"),
        "org": org,
        "name": name,
        "name_key": name.lower(),
        "private": private,
        "created_by": caller.name,
        "created_at_us": now_us,
        "updated_at_us": now_us,
    }
    repo = Repo.model_validate(row)
    session.add(repo)
    _flush_name(session, repo)
    first = commits.append(
        session,
        repo,
        None,
        tree_oid=git_objects.EMPTY_TREE,
        file_count=0,
        message="initial commit",
        author=caller.name,
        now_us=now_us,
    )
    main = {
        "repo_id": repo.id,
        "name": refs.MAIN,
        "commit_oid": first.oid,
        "message": "",
        "created_at_us": now_us,
    }
    insert_missing(session, Ref, [main])
    return repo


def remove(session: Session, repo: Repo) -> None:
    """Delete a repository with everything only it refers to; releases keep what they hold."""
    join_writers(session)
    for owner in (Ref, Pull, Commit, TreeEntry, XetSession):
        session.execute(delete(owner).where(col(owner.repo_id) == repo.id))
    registry.let_go(session, repo.id)
    session.delete(repo)


def move(session: Session, repo: Repo, org: str, name: str) -> None:
    """Rename a repository; its bytes count for the new organisation from now on."""
    names.check_repo_part(org, "organisation")
    names.check_repo_part(name, "repository name")
    other = access.find_repo(session, org, name)
    if other is not None and other.id != repo.id:
        raise _taken(f"{org}/{name}")
    repo.org, repo.name, repo.name_key = org, name, name.lower()
    session.add(repo)
    _flush_name(session, repo)
    session.execute(update(Holding).where(col(Holding.holder) == repo.id).values(account=org))


@dataclass(frozen=True, slots=True)
class Query:
    """What a list asks for; `cursor` is where the page before ended."""

    search: str = ""
    author: str = ""
    tags: tuple[str, ...] = ()
    sort: str = "lastModified"
    limit: int = 100
    offset: int = 0


_ORDERS = {
    "lastModified": col(Repo.updated_at_us).desc(),
    "last_modified": col(Repo.updated_at_us).desc(),
    "createdAt": col(Repo.created_at_us).desc(),
    "created_at": col(Repo.created_at_us).desc(),
    "downloads": col(Repo.downloads).desc(),
}


def _visible_to(caller: Caller | None) -> ColumnElement[bool]:
    if caller is not None and caller.is_operator:
        return col(Repo.id).is_not(None)
    public = and_(col(Repo.private).is_(False), col(Repo.disabled).is_(False))
    return or_(public, col(Repo.org).in_(list(caller.orgs) if caller else []))


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped.lower()}%"


def find(session: Session, query: Query, caller: Caller | None) -> list[Repo]:
    """Return repositories the caller may see; one more than `limit` when there is a next page."""
    statement = select(Repo).where(_visible_to(caller))
    if query.author:
        statement = statement.where(col(Repo.org) == query.author)
    for word in query.search.split():
        org, _, name = word.rpartition("/")
        if org:
            statement = statement.where(col(Repo.org) == org)
        statement = statement.where(
            or_(
                col(Repo.name_key).like(_like(name), escape="\\"),
                func.lower(col(Repo.org)).like(_like(name), escape="\\"),
            )
        )
    for tag in query.tags:
        # Tags are words in the card's JSON, some without their prefix (see `wire.repo_item`); the answer
        # is filtered exactly by the endpoint.
        word = json.dumps(tag.rpartition(":")[2], ensure_ascii=False)[1:-1]
        statement = statement.where(func.lower(col(Repo.card)).like(_like(word), escape="\\"))
    order = _ORDERS.get(query.sort, _ORDERS["lastModified"])
    statement = statement.order_by(order, col(Repo.id)).offset(query.offset).limit(query.limit + 1)
    return list(session.scalars(statement))
