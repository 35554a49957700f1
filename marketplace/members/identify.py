"""From an `Authorization` header to who is calling, for every door but the hot path."""

from __future__ import annotations

from sqlmodel import Session, select

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.errors import Forbidden, Unauthenticated
from catalog.ground.identity import Caller, Identify
from marketplace.members.people import role_of
from marketplace.members.secrets import digest
from marketplace.members.tables import ApiKey, Organisation

_MACHINE = "dev"


def key_of(session: Session, authorization: str | None, at_us: int) -> ApiKey | None:
    """Return the key of the header, None without one; `Unauthenticated` for a key that is not good."""
    if not authorization:
        return None
    scheme, _, secret = authorization.partition(" ")
    key = None
    if scheme.lower() == "bearer":
        sha256 = digest(secret.strip())
        key = session.exec(select(ApiKey).where(ApiKey.sha256 == sha256)).first()
    if key is None:
        raise Unauthenticated(
            "This is not a key of this marketplace.",
            remedy="Check the key, or make one: tokenmart key create.",
        )
    if key.revoked_at_us is not None or (key.expires_at_us or at_us + 1) <= at_us:
        raise Unauthenticated("This key has expired or was revoked.", code="key_revoked")
    return key


def identify_by(database: Database, clock: Clock = now_us) -> Identify:
    """Return the catalogue's way to ask who is calling."""

    def identify(authorization: str | None) -> Caller | None:
        with database.reading() as session:
            key = key_of(session, authorization, clock())
            return None if key is None else caller_of(session, key)

    return identify


def caller_of(session: Session, key: ApiKey) -> Caller:
    """Return who stands behind a key, in the key's own organisation and no other.

    A key of organisation A opens nothing of organisation B, though its member may be in both: whoever
    manages A's keys must not come by B's. A key without a member belongs to the organisation's machines
    and acts as `dev`; an operator's key acts as the owner of its own organisation.
    """
    org = session.get_one(Organisation, key.org_id)
    role = role_of(session, org.id, key.member) if key.member else _MACHINE
    if role is None:
        raise Unauthenticated(
            f"{key.member} is no longer a member of {org.slug}.", code="member_removed"
        )
    if org.status != "active":
        raise Forbidden(f"The organisation {org.slug} is suspended.", code="organisation_suspended")
    return Caller(
        name=key.member or org.slug,
        orgs={org.slug: "owner" if key.operator else role},
        is_operator=key.operator,
    )
