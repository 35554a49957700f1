"""Make, find, verify, suspend and resume organisations."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.members import uscc as codes
from marketplace.members.four_eyes import two_persons
from marketplace.members.markers import FACTS, KEYS
from marketplace.members.tables import ApiKey, Organisation, OrganisationStatus

ACTIVE, SUSPENDED = "active", "suspended"
_SLUG = re.compile(r"(?=.{1,64}$)[a-z0-9]+(-[a-z0-9]+)*")


def organisation(session: Session, slug: str) -> Organisation:
    """Return the organisation called `slug`; `NotFound` otherwise."""
    found = session.exec(select(Organisation).where(Organisation.slug == slug)).first()
    if found is None:
        raise NotFound(f"There is no organisation {slug!r}.", rule="organisation.exists")
    return found


def create_organisation(
    session: Session, slug: str, name: str, at_us: int, uscc: str | None = None
) -> Organisation:
    """Add an organisation. A slug or a 统一社会信用代码 that is taken is refused, and so is a bad one."""
    if not _SLUG.fullmatch(slug):
        raise BadRequest(
            f"{slug!r} is no short name.",
            rule="organisation.slug",
            param="slug",
            remedy="Up to 64 small letters and digits, with single dashes between them.",
        )
    if session.exec(select(Organisation.id).where(Organisation.slug == slug)).first():
        raise BadRequest(f"The name {slug!r} is taken.", rule="organisation.slug_unique")
    code = None if uscc is None else _free_code(session, uscc)
    made = Organisation(id=new_id("org"), slug=slug, name=name, uscc=code, created_at_us=at_us)
    session.add(made)
    session.flush()
    return made


def verify_organisation(
    session: Session, slug: str, uscc: str, name: str | None, by: str, at_us: int
) -> Organisation:
    """Record that `by` has compared the organisation with its entry in the register.

    `name` is the registered name, when it differs. A verified code never changes: another legal person
    is another organisation. Verifying again with the same code changes nothing.
    """
    org = organisation(session, slug)
    code = codes.parse(uscc)
    if org.verified_at_us is not None:
        if org.uscc == code:
            return org
        raise Conflict(
            f"{slug} is verified as {codes.mask(org.uscc or '')}.",
            rule="organisation.uscc_fixed",
            remedy="Another legal person is another organisation: create it.",
        )
    if org.uscc != code:
        org.uscc = _free_code(session, uscc)
    org.name = name or org.name
    org.verified_at_us, org.verified_by = at_us, by
    session.add(org)
    session.flush()
    raise_marker(session, FACTS)
    return org


def suspend_organisation(
    session: Session, slug: str, reason: str, by: str, at_us: int
) -> Organisation:
    """Refuse the organisation's keys from now on, and with them its vouchers. Twice is once.

    Calls that run are finished and paid, and nothing of what it has is taken away. Gateways know it by
    their change markers. An organisation with an operator's key is not suspended: nobody could resume it.
    """
    org = organisation(session, slug)
    if org.status == SUSPENDED:
        return org
    operators = select(ApiKey.id).where(
        ApiKey.org_id == org.id, col(ApiKey.operator), col(ApiKey.revoked_at_us).is_(None)
    )
    if session.exec(operators).first() is not None:
        raise Conflict(
            f"{slug} operates this marketplace.",
            rule="organisation.operator",
            remedy="Revoke its operators' keys first.",
        )
    return _set_status(session, org, SUSPENDED, reason, by, at_us)


def resume_organisation(
    session: Session, slug: str, reason: str, by: str, at_us: int
) -> Organisation:
    """Let a suspended organisation call again; `by` is not who suspended it. Twice is once."""
    org = organisation(session, slug)
    if org.status == ACTIVE:
        return org
    if org.status != SUSPENDED:
        raise Conflict(f"{slug} is {org.status}.", rule="organisation.status")
    two_persons(by, *(row.by for row in statuses(session, org.id)[-1:]), what="suspension")
    return _set_status(session, org, ACTIVE, reason, by, at_us)


def statuses(session: Session, org_id: str) -> Sequence[OrganisationStatus]:
    """Return every change of an organisation's status, oldest first."""
    query = select(OrganisationStatus).where(OrganisationStatus.org_id == org_id)
    return session.exec(
        query.order_by(col(OrganisationStatus.at_us), col(OrganisationStatus.id))
    ).all()


def _set_status(
    session: Session, org: Organisation, status: str, reason: str, by: str, at_us: int
) -> Organisation:
    if not reason.strip():
        raise BadRequest("Say why.", rule="organisation.reason", param="reason")
    row = OrganisationStatus(
        id=new_id("ost"), org_id=org.id, status=status, reason=reason, by=by, at_us=at_us
    )
    org.status = status
    session.add_all((row, org))
    session.flush()
    raise_marker(session, KEYS)
    raise_marker(session, FACTS)
    return org


def masked_uscc(org: Organisation) -> str:
    """Return the code as others may see it, '' when there is none."""
    return codes.mask(org.uscc) if org.uscc else ""


def _free_code(session: Session, uscc: str) -> str:
    code = codes.parse(uscc)
    taken = session.exec(select(Organisation.slug).where(Organisation.uscc == code)).first()
    if taken is not None:
        raise Conflict(
            f"The code {codes.mask(code)} belongs to {taken}.", rule="organisation.uscc_unique"
        )
    return code
