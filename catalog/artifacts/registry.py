"""Turn staged files into artifacts, and say who holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, func, select, update
from sqlmodel import Session, col

from catalog.artifacts.sql import insert_missing, join_writers
from catalog.artifacts.staging import Staged
from catalog.artifacts.store import ArtifactStore
from catalog.artifacts.tables import Artifact, Holding
from catalog.ground.errors import Forbidden, NotFound, Unavailable


def register(
    session: Session, store: ArtifactStore, bodies: Iterable[Staged], *, now_us: int
) -> dict[str, Artifact]:
    """Return the rows of published bodies by digest; known content only loses its condemnation.

    `store.publish` comes before the transaction: it waits for the disk with every body, and on SQLite
    everybody who writes would wait with it. `Unavailable` when the collector took one in between.
    """
    join_writers(session)
    sizes = {staged.sha256: staged.size_bytes for staged in bodies}
    if not all(store.exists(sha256) for sha256 in sizes):
        raise Unavailable("The store was being tidied; send it again.", rule="artifacts.collect")
    rows = [
        {"sha256": sha256, "size_bytes": size, "created_at_us": now_us}
        for sha256, size in sorted(sizes.items())  # two who bring the same wait in one order
    ]
    insert_missing(session, Artifact, rows)
    digests = list(sizes)
    for first in range(0, len(digests), 500):
        session.execute(
            update(Artifact)
            .where(col(Artifact.sha256).in_(digests[first : first + 500]))
            .where(col(Artifact.condemned_at_us).is_not(None))
            .values(condemned_at_us=None)
        )
    return find(session, digests)


def find(session: Session, digests: Iterable[str]) -> dict[str, Artifact]:
    """Return the artifacts among `digests` that are content now."""
    wanted = sorted(set(digests))
    found: dict[str, Artifact] = {}
    for first in range(0, len(wanted), 500):
        query = select(Artifact).where(
            col(Artifact.sha256).in_(wanted[first : first + 500]),
            col(Artifact.condemned_at_us).is_(None),
        )
        found |= {artifact.sha256: artifact for artifact in session.scalars(query)}
    return found


def hold(
    session: Session,
    artifacts: Sequence[Artifact],
    *,
    holder: str,
    account: str,
    leased_until_us: int = 0,
    pinned: bool = False,
) -> None:
    """Keep artifacts alive for `holder`: until the lease ends, or for good when `pinned`.

    A pin is never loosened and a lease never shortened. The artifacts must come from `register` or
    `find` in this same transaction, after `join_writers`.
    """
    rows = [
        {
            "holder": holder,
            "sha256": artifact.sha256,
            "account": account,
            "size_bytes": artifact.size_bytes,
            "pinned": pinned,
            "leased_until_us": leased_until_us,
        }
        for artifact in sorted(artifacts, key=lambda artifact: artifact.sha256)
    ]
    insert_missing(session, Holding, rows)
    digests = [artifact.sha256 for artifact in artifacts]
    for first in range(0, len(digests), 500):
        mine = (
            col(Holding.holder) == holder,
            col(Holding.sha256).in_(digests[first : first + 500]),
        )
        if pinned:
            session.execute(update(Holding).where(*mine).values(pinned=True))
        else:
            later = col(Holding.leased_until_us) < leased_until_us
            session.execute(
                update(Holding).where(*mine, later).values(leased_until_us=leased_until_us)
            )


def let_go(session: Session, holder: str) -> None:
    """End everything that `holder` holds; the collector takes what nobody else does."""
    session.execute(delete(Holding).where(col(Holding.holder) == holder))


def held(session: Session, holders: Iterable[str], digests: Iterable[str]) -> set[str]:
    """Return those digests that any of `holders` holds and that are content now."""
    present = find(session, digests)
    query = select(col(Holding.sha256)).where(
        col(Holding.holder).in_(sorted(set(holders))), col(Holding.sha256).in_(sorted(present))
    )
    return set(session.scalars(query))


def used_bytes(session: Session, account: str) -> int:
    """Return what an account keeps, each body counted once however many of its holders share it."""
    distinct = (
        select(col(Holding.sha256), func.max(col(Holding.size_bytes)).label("size_bytes"))
        .where(col(Holding.account) == account)
        .group_by(col(Holding.sha256))
        .subquery()
    )
    return int(session.scalar(select(func.coalesce(func.sum(distinct.c.size_bytes), 0))) or 0)


def check_quota(session: Session, account: str, *, extra_bytes: int, quota_bytes: int) -> None:
    """Raise `Forbidden` when `extra_bytes` more would pass the account's quota."""
    used = used_bytes(session, account)
    if used + extra_bytes > quota_bytes:
        raise Forbidden(
            f"{account} keeps {used} of {quota_bytes} bytes; {extra_bytes} more do not fit.",
            code="quota_exceeded",
            rule="artifacts.quota",
            remedy="Delete what is no longer needed, or ask the operator for more room.",
            details={"used_bytes": used, "quota_bytes": quota_bytes, "extra_bytes": extra_bytes},
        )


def get(session: Session, sha256: str) -> Artifact:
    """Return an artifact that is content now; `NotFound` otherwise."""
    artifact = find(session, [sha256]).get(sha256)
    if artifact is None:
        raise NotFound(f"There is no artifact {sha256}.", rule="artifacts.digest")
    return artifact
