"""An upload that has arrived: register it and lease it to its repository until a commit names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlmodel import Session, col

from catalog.artifacts import registry
from catalog.artifacts.sql import join_writers
from catalog.artifacts.staging import Staged
from catalog.artifacts.tables import Holding
from catalog.ground.errors import PayloadTooLarge
from catalog.hub import access
from catalog.hub.limits import HubLimits
from catalog.hub.tables import Repo
from catalog.hub.web import Hub


def check_size(size_bytes: int, path: str, limits: HubLimits) -> None:
    """Raise `PayloadTooLarge` for a file that could not be kept."""
    if size_bytes > limits.file_max_bytes:
        raise PayloadTooLarge(
            f"{path} has {size_bytes} bytes; {limits.file_max_bytes} are allowed for one file.",
            rule="hub.file_size",
            remedy="Split the weights into shards (`save_pretrained(max_shard_size=…)`).",
        )


def expect_room(session: Session, repo: Repo, sizes: Sequence[int], limits: HubLimits) -> None:
    """Refuse early what cannot fit; only sizes are known yet, so files the account may hold already
    (same size to the byte) are not counted. The exact check comes with the bytes.
    """
    query = select(col(Holding.size_bytes)).where(
        col(Holding.account) == repo.org, col(Holding.size_bytes).in_(sorted(set(sizes)))
    )
    known = set(session.scalars(query))
    extra = sum(size for size in sizes if size not in known)
    registry.check_quota(session, repo.org, extra_bytes=extra, quota_bytes=limits.org_quota_bytes)


def check_room(session: Session, hub: Hub, repo_id: str, sizes: Mapping[str, int]) -> Repo:
    """Return the repository when bodies of these sizes in bytes, by digest, fit into its quota."""
    repo = session.get(Repo, repo_id)
    if repo is None:
        raise access.repo_not_found(repo_id)
    mine = registry.held(session, [repo.id], sizes)
    extra = sum(size for sha256, size in sizes.items() if sha256 not in mine)
    registry.check_quota(
        session, repo.org, extra_bytes=extra, quota_bytes=hub.limits.org_quota_bytes
    )
    return repo


def accept(hub: Hub, repo_id: str, bodies: Sequence[Staged]) -> None:
    """Register staged bodies in one transaction and lease them to the repository.

    Raises `NotFound` when the repository is gone, `Forbidden` when the quota is passed; the bodies are
    removed from the spool either way.
    """
    sizes = {staged.sha256: staged.size_bytes for staged in bodies}
    try:
        with hub.reading() as session:
            check_room(session, hub, repo_id, sizes)
        for staged in bodies:
            hub.store.publish(staged)
        with hub.database.session() as session:
            join_writers(session)
            repo = check_room(session, hub, repo_id, sizes)
            now = hub.clock()
            kept = registry.register(session, hub.store, bodies, now_us=now)
            lease = now + hub.limits.upload_lease_us
            registry.hold(
                session,
                list(kept.values()),
                holder=repo.id,
                account=repo.org,
                leased_until_us=lease,
            )
    finally:
        for staged in bodies:
            staged.discard()
