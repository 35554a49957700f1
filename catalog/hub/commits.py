"""Making a commit: one transaction from the check of the head to the moved ref.

    check ──► register small bodies ──► edit the tree ──► pin every new body ──► commit row ──► ref

The bodies have been put into the store before: that waits for the disk, and must not do so in here.

Killed anywhere before the end, nothing has happened: bodies are in the store without a row, which the
collector clears away. After the end everything is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session

from catalog.artifacts import registry, tensors
from catalog.artifacts.sql import insert_missing, join_writers
from catalog.artifacts.store import ArtifactStore
from catalog.artifacts.tables import Artifact
from catalog.ground.errors import BadRequest, Forbidden, IntegrityError, PreconditionFailed
from catalog.hub import git_objects, possession, refs, summary, trees
from catalog.hub.access import Gate
from catalog.hub.changes import CommitRequest
from catalog.hub.identity import Caller
from catalog.hub.limits import HubLimits
from catalog.hub.tables import Commit, Ref, Repo


@dataclass(frozen=True, slots=True)
class Workbench:
    """What making commits needs, besides a session and a request."""

    store: ArtifactStore
    limits: HubLimits
    gate: Gate
    now_us: Callable[[], int]


def weights_of(store: ArtifactStore, sha256: str, path: str) -> str:
    """Return JSON of parameters by dtype, read from a safetensors header; `BadRequest` if unsound."""
    with store.open(sha256) as reader:
        return json.dumps(tensors.read_header(reader, path).parameters())


def check_weights(
    session: Session, bench: Workbench, repo: Repo, request: CommitRequest, caller: Caller
) -> dict[str, str]:
    """Read the headers of new `*.safetensors` bodies, before the writing transaction begins.

    Returns parameters (JSON) by sha256.
    """
    wanted = {
        change.sha256: change.path
        for change in request.large
        if change.path.lower().endswith(".safetensors")
    }
    usable = possession.usable(session, repo, wanted, caller, bench.gate)
    return {
        sha256: weights_of(bench.store, sha256, wanted[sha256])
        for sha256, artifact in usable.items()
        if artifact.parameters is None
    }


def target_ref(session: Session, repo: Repo, revision: str, request: CommitRequest) -> Ref:
    """Return the branch (or pull request) to commit to, locked, its head checked."""
    ref = refs.find_ref(session, repo, revision, lock=True)
    if ref is None:
        raise refs.revision_not_found(revision)
    if not ref.name.startswith(("refs/heads/", "refs/pr/")):
        raise BadRequest(f"{revision} does not move: commit to a branch.", rule="hub.refs")
    if request.parent is not None and not ref.commit_oid.startswith(request.parent):
        raise PreconditionFailed(
            f"{revision} has moved: its head is {ref.commit_oid}, not {request.parent}.",
            code="head_moved",
            rule="hub.parent_commit",
            remedy="Download the newest commit, apply the change to it and commit again.",
            details={"head": ref.commit_oid},
        )
    return ref


def check_room(session: Session, bench: Workbench, repo: Repo, request: CommitRequest) -> None:
    """Raise `Forbidden` when the small files of a commit do not fit into the quota."""
    sizes = {change.staged.sha256: change.staged.size_bytes for change in request.small}
    known = registry.held(session, [repo.id], sizes)
    extra = sum(size for sha256, size in sizes.items() if sha256 not in known)
    registry.check_quota(
        session, repo.org, extra_bytes=extra, quota_bytes=bench.limits.org_quota_bytes
    )


def _claim_large(
    session: Session, bench: Workbench, repo: Repo, request: CommitRequest, caller: Caller
) -> dict[str, Artifact]:
    wanted = {change.sha256 for change in request.large}
    usable = possession.usable(session, repo, wanted, caller, bench.gate)
    for change in request.large:
        artifact = usable.get(change.sha256)
        if artifact is None:
            raise BadRequest(
                f"The content of {change.path!r} (sha256 {change.sha256}) has not been uploaded here.",
                code="lfs_missing",
                rule="hub.lfs",
                remedy="Upload again: the client sends the content before it commits.",
            )
        if change.size_bytes not in (None, artifact.size_bytes):
            raise IntegrityError(
                f"{change.path!r} is announced with {change.size_bytes} bytes, its content has "
                f"{artifact.size_bytes}.",
                rule="hub.lfs",
            )
    mine = registry.held(session, [repo.id], wanted)
    extra = sum(usable[sha256].size_bytes for sha256 in wanted - mine)
    if extra:
        registry.check_quota(
            session, repo.org, extra_bytes=extra, quota_bytes=bench.limits.org_quota_bytes
        )
    return usable


def _edit(
    session: Session,
    repo: Repo,
    head: Commit,
    request: CommitRequest,
    bodies: dict[str, Artifact],
) -> tuple[str, int]:
    editor = trees.TreeEditor(session, repo.id, head.tree_oid)
    for deletion in request.deletes:
        editor.delete(deletion.path, kind=deletion.kind)
    named: set[str] = set()
    for path, entry in _new_entries(request, bodies):
        if path in named:
            raise BadRequest(
                f"{path!r} comes twice in one commit.", code="path_twice", rule="hub.paths"
            )
        named.add(path)
        editor.put(path, entry)
    return editor.write(), head.file_count + editor.file_delta


def _new_entries(
    request: CommitRequest, bodies: dict[str, Artifact]
) -> list[tuple[str, trees.Entry]]:
    small = [
        (
            change.path,
            trees.Entry(
                "file", change.git_oid, change.staged.sha256, change.staged.size_bytes, False
            ),
        )
        for change in request.small
    ]
    large = []
    for change in request.large:
        size = bodies[change.sha256].size_bytes
        oid = git_objects.pointer_oid(change.sha256, size)
        large.append((change.path, trees.Entry("file", oid, change.sha256, size, True)))
    return small + large


def append(
    session: Session,
    repo: Repo,
    head: Commit | None,
    *,
    tree_oid: str,
    file_count: int,
    message: str,
    author: str,
    now_us: int,
) -> Commit:
    """Write a commit row on top of `head` (None: the first) and return it; no ref moves."""
    parent = head.oid if head is not None else None
    oid = git_objects.commit_oid(
        tree=tree_oid, parent=parent, author=author, created_at_us=now_us, message=message
    )
    row = {
        "repo_id": repo.id,
        "oid": oid,
        "tree_oid": tree_oid,
        "parent_oid": parent,
        "depth": head.depth + 1 if head is not None else 0,
        "file_count": file_count,
        "title": message.partition("\n")[0],
        "message": message,
        "author": author,
        "created_at_us": now_us,
    }
    insert_missing(session, Commit, [row])
    return session.get_one(Commit, (repo.id, oid))


def commit(
    session: Session,
    bench: Workbench,
    repo: Repo,
    ref: Ref,
    request: CommitRequest,
    caller: Caller,
    *,
    parameters: dict[str, str] | None = None,
) -> Commit:
    """Commit `request` on top of a locked ref (`target_ref`) and move it; return the new head.

    Its small bodies have been published. A request that changes nothing makes no commit and returns the
    old head. Raises what is wrong with a path, a digest, a size or the quota; the caller's transaction
    then rolls back as a whole.
    """
    join_writers(session)
    head = session.get_one(Commit, (repo.id, ref.commit_oid))
    check_room(session, bench, repo, request)
    staged = [change.staged for change in request.small]
    bodies = registry.register(session, bench.store, staged, now_us=bench.now_us())
    bodies |= _claim_large(session, bench, repo, request, caller)
    for sha256, document in (parameters or {}).items():
        bodies[sha256].parameters = document
    tree_oid, file_count = _edit(session, repo, head, request, bodies)
    if file_count > bench.limits.repo_files_max:
        raise Forbidden(
            f"The repository would have {file_count} files; {bench.limits.repo_files_max} are allowed.",
            code="too_many_files",
            rule="hub.files",
        )
    registry.hold(session, list(bodies.values()), holder=repo.id, account=repo.org, pinned=True)
    if tree_oid == head.tree_oid:
        return head
    now = bench.now_us()
    made = append(
        session,
        repo,
        head,
        tree_oid=tree_oid,
        file_count=file_count,
        message=request.message,
        author=caller.name,
        now_us=now,
    )
    ref.commit_oid = made.oid
    session.add(ref)
    if ref.name == refs.MAIN:
        summary.refresh(session, bench.store, repo, made)
        repo.updated_at_us = now
    return made
