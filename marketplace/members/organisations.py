"""Make, find and verify organisations."""

from __future__ import annotations

from sqlmodel import Session, select

from catalog.ground.errors import BadRequest, Conflict, NotFound
from catalog.ground.ids import new_id
from catalog.ground.marker import raise_marker
from marketplace.members import uscc as codes
from marketplace.members.markers import FACTS
from marketplace.members.tables import Organisation


def organisation(session: Session, slug: str) -> Organisation:
    """Return the organisation called `slug`; `NotFound` otherwise."""
    found = session.exec(select(Organisation).where(Organisation.slug == slug)).first()
    if found is None:
        raise NotFound(f"There is no organisation {slug!r}.", rule="organisation.exists")
    return found


def create_organisation(
    session: Session, slug: str, name: str, at_us: int, uscc: str | None = None
) -> Organisation:
    """Add an organisation. A slug or a 统一社会信用代码 that is taken is refused, and so is a bad code."""
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
