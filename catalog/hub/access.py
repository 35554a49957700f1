"""Who may do what with a repository. Every endpoint asks here, and nowhere else.

                      stranger      auditor, finance    dev     admin, owner    operator
    private repo      unseen        read                write   administer      administer
    public, gate open read          read                write   administer      administer
    public, gated     name only     read                write   administer      administer

A stranger never learns that a private repository exists: the answer is the one for a name that is free.
Whether what is in a public repository is open to strangers is the gate's decision: with a marketplace above,
only what has passed review and is listed.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.ground.errors import Forbidden, NotFound, Unauthenticated
from catalog.hub.identity import ADMINS, WRITERS, Caller
from catalog.hub.tables import Repo

Gate = Callable[[Session, Repo, Caller | None], str | None]
"""Returns None when strangers may look into a public repository, else the sentence that says why not."""


def open_gate(_session: Session, repo: Repo, _caller: Caller | None) -> str | None:
    """The gate of a hub that stands alone: only the repository's own `gated` setting counts."""
    if repo.gated:
        return "Access to this repository is restricted: ask its owner."
    return None


def repo_not_found(name: str) -> NotFound:
    """Return the answer for a repository that is not there, or not for this caller."""
    return NotFound(f"Repository {name} not found.", code="repo_not_found", rule="hub.access")


def find_repo(session: Session, org: str, name: str) -> Repo | None:
    """Return the repository of that name in any letter case."""
    query = select(Repo).where(col(Repo.org) == org, col(Repo.name_key) == name.lower())
    return session.scalars(query).first()


def may_see(repo: Repo, caller: Caller | None) -> bool:
    """Tell whether the caller may know that the repository exists."""
    return not repo.private or is_member(repo.org, caller)


def is_member(org: str, caller: Caller | None) -> bool:
    """Tell whether the caller belongs to the organisation, in any role, or operates the house."""
    return caller is not None and (caller.is_operator or org in caller.orgs)


def visible(session: Session, org: str, name: str, caller: Caller | None) -> Repo:
    """Return a repository whose name the caller may see; `NotFound` otherwise."""
    repo = find_repo(session, org, name)
    if repo is None or not may_see(repo, caller):
        raise repo_not_found(f"{org}/{name}")
    if repo.disabled and not (caller is not None and caller.is_operator):
        raise Forbidden(
            "Access to this resource is disabled.", code="repo_disabled", rule="hub.access"
        )
    return repo


def refused(session: Session, repo: Repo, caller: Caller | None, gate: Gate) -> str | None:
    """Return why the caller may not look into a repository that he may see, None when he may."""
    return None if is_member(repo.org, caller) else gate(session, repo, caller)


def readable(session: Session, org: str, name: str, caller: Caller | None, gate: Gate) -> Repo:
    """Return a repository into which the caller may look; `Forbidden` when the gate is closed.

    What is inside (files and their names, the card, history, refs, pull requests) is open or closed together.
    """
    repo = visible(session, org, name, caller)
    refusal = refused(session, repo, caller, gate)
    if refusal is not None:
        raise Forbidden(refusal, code="gated_repo", rule="hub.gate")
    return repo


def check_role(org: str, caller: Caller | None, *, admin: bool = False) -> Caller:
    """Return the caller when their role in `org` allows writing (or administering)."""
    if caller is not None:
        if caller.is_operator or caller.orgs.get(org) in (ADMINS if admin else WRITERS):
            return caller
        raise Forbidden(
            f"{caller.name} may not {'administer' if admin else 'write to'} {org}.",
            rule="hub.access",
            remedy="Ask an owner of the organisation for the role that is needed.",
        )
    raise Unauthenticated(
        f"Writing to {org} needs a key.", rule="hub.access", remedy="Log in with `hf auth login`."
    )


def writable(
    session: Session, org: str, name: str, caller: Caller | None, *, admin: bool = False
) -> Repo:
    """Return a repository that the caller may change."""
    repo = visible(session, org, name, caller)
    check_role(repo.org, caller, admin=admin)
    return repo


def changing(
    session: Session, org: str, name: str, caller: Caller | None, *, admin: bool = False
) -> Repo:
    """Return a repository that the caller may change, and nobody else does until we commit."""
    repo = writable(session, org, name, caller, admin=admin)
    held = session.get(Repo, repo.id, with_for_update=True, populate_existing=True)
    if held is None or (held.org, held.name_key) != (org, name.lower()):
        raise repo_not_found(f"{org}/{name}")  # deleted or moved while we waited
    return held
