"""Make, list, find and revoke keys. The secret is shown once and never stored."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.members.tables import ApiKey, Organisation

PREFIX = "tm-"
MARKER = "keys"
"""Name of the change marker that tells gateways to look again."""
_SHOWN = 10


def digest(secret: str) -> str:
    """Return what is stored of a key: SHA-256, hex. 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def organisation(session: Session, slug: str) -> Organisation:
    """Return the organisation called `slug`; `NotFound` otherwise."""
    found = session.exec(select(Organisation).where(Organisation.slug == slug)).first()
    if found is None:
        raise NotFound(f"There is no organisation {slug!r}.", rule="organisation.exists")
    return found


def create_organisation(
    session: Session, slug: str, name: str, at_us: int, uscc: str | None = None
) -> Organisation:
    """Add an organisation; a slug that is taken is refused."""
    if session.exec(select(Organisation.id).where(Organisation.slug == slug)).first():
        raise BadRequest(f"The name {slug!r} is taken.", rule="organisation.slug_unique")
    made = Organisation(id=new_id("org"), slug=slug, name=name, uscc=uscc, created_at_us=at_us)
    session.add(made)
    session.flush()
    return made


def create_key(
    session: Session,
    org_id: str,
    name: str,
    at_us: int,
    *,
    operator: bool = False,
    listings: Sequence[str] | None = None,
    rpm: int | None = None,
    concurrency: int | None = None,
    expires_at_us: int | None = None,
    secret: str | None = None,
) -> tuple[ApiKey, str]:
    """Return the new key and its secret (`tm-` and 43 characters), which cannot be read again."""
    secret = secret or PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        org_id=org_id,
        name=name,
        prefix=secret[:_SHOWN],
        sha256=digest(secret),
        operator=operator,
        listings=None if listings is None else json.dumps(list(listings)),
        rpm=rpm,
        concurrency=concurrency,
        expires_at_us=expires_at_us,
        created_at_us=at_us,
    )
    session.add(key)
    session.flush()
    raise_marker(session, MARKER)
    return key, secret


def list_keys(session: Session, org_id: str | None = None) -> Sequence[ApiKey]:
    """Return keys, newest first; of one organisation when `org_id` is given."""
    query = select(ApiKey).order_by(col(ApiKey.created_at_us).desc())
    if org_id is not None:
        query = query.where(ApiKey.org_id == org_id)
    return session.exec(query).all()


def revoke_key(session: Session, key_id: str, at_us: int) -> ApiKey:
    """Revoke a key by its id or its shown prefix; revoking twice changes nothing."""
    found = session.exec(
        select(ApiKey).where((ApiKey.id == key_id) | (ApiKey.prefix == key_id))
    ).all()
    if len(found) != 1:
        raise NotFound(
            f"{len(found)} keys match {key_id!r}.",
            rule="key.exists",
            remedy="Give the id that `tokenmart key list` shows.",
        )
    key = found[0]
    if key.revoked_at_us is None:
        key.revoked_at_us = at_us
        session.add(key)
        session.flush()
        raise_marker(session, MARKER)
    return key
