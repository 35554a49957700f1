"""Make, list, find and revoke keys. The secret is shown once and never stored.

A key's limits stand as they were made: another limit is another key.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.members.markers import KEYS
from marketplace.members.organisations import create_organisation, organisation
from marketplace.members.people import CALLERS, role_of
from marketplace.members.secrets import digest
from marketplace.members.tables import ApiKey

__all__ = [
    "MARKER",
    "PREFIX",
    "create_key",
    "create_organisation",
    "list_keys",
    "organisation",
    "revoke_key",
]

PREFIX = "tm-"
MARKER = KEYS
_SHOWN = 10


def create_key(
    session: Session,
    org_id: str,
    name: str,
    at_us: int,
    *,
    operator: bool = False,
    member: str = "",
    project_id: str = "",
    listings: Sequence[str] | None = None,
    cidrs: Sequence[str] = (),
    rpm: int | None = None,
    tpm: int | None = None,
    concurrency: int | None = None,
    daily_u: int | None = None,
    monthly_u: int | None = None,
    expires_at_us: int | None = None,
    secret: str | None = None,
) -> tuple[ApiKey, str]:
    """Return the new key and its secret (`tm-` and 43 characters), which cannot be read again.

    `member` must be one of the organisation's; the key of one whose role may not call (finance,
    auditor) may call nothing and read everything. `daily_u` and `monthly_u`: micro-yuan per Beijing
    day and month.
    """
    if member:
        listings = _callable_by(session, org_id, member, listings)
    secret = secret or PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        org_id=org_id,
        project_id=project_id,
        member=member,
        name=name,
        prefix=secret[:_SHOWN],
        sha256=digest(secret),
        operator=operator,
        listings=None if listings is None else json.dumps(list(listings)),
        cidrs=json.dumps([_network(cidr) for cidr in cidrs]) if cidrs else None,
        rpm=rpm,
        tpm=tpm,
        concurrency=concurrency,
        daily_u=daily_u,
        monthly_u=monthly_u,
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


def _callable_by(
    session: Session, org_id: str, member: str, listings: Sequence[str] | None
) -> Sequence[str] | None:
    role = role_of(session, org_id, member)
    if role is None:
        raise BadRequest(
            f"{member!r} is not a member of this organisation.",
            rule="key.member",
            param="member",
            remedy="Add the member first: tokenmart member add.",
        )
    return listings if role in CALLERS else ()


def _network(cidr: str) -> str:
    try:
        return str(ipaddress.ip_network(cidr, strict=False))
    except ValueError:
        raise BadRequest(
            f"{cidr!r} is not a network.",
            rule="key.cidrs",
            param="cidr",
            remedy="Write it like 10.0.0.0/8 or 2001:db8::/32.",
        ) from None
