"""Funders by their own members: an office of a province, city or district is an organisation.

A member of it sees what its funders fund and nothing else, refuses and settles as their payer; the
operator sees everything. This is the only place where that line is drawn: whoever answers about
programmes, claims or their lines asks a `Scope` first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, func, select

from catalog.ground.errors import Conflict, Forbidden, NotFound
from catalog.ground.identity import Caller
from marketplace.ledger.reading import totals
from marketplace.members.door import Door
from marketplace.members.four_eyes import Act, allows
from marketplace.members.organisations import organisation
from marketplace.members.tables import Organisation
from marketplace.vouchers.claims import claim as find_claim
from marketplace.vouchers.pools import appropriated_u, funder
from marketplace.vouchers.tables import Claim, Funder, Programme, ProgrammeFunder


@dataclass(frozen=True, slots=True)
class Scope:
    """The funders that a caller acts for (ids); `everything` for an operator."""

    everything: bool
    funder_ids: frozenset[str] = frozenset()

    def of(self, column: Any) -> list[Any]:
        """Return the conditions that a column of funder ids lies within the scope."""
        return [] if self.everything else [col(column).in_(self.funder_ids)]

    def claim(self, session: Session, claim_id: str) -> Claim:
        """Return a claim; one on another funder is not even confirmed to exist."""
        found = find_claim(session, claim_id)
        if not self.everything and found.funder_id not in self.funder_ids:
            raise NotFound(f"There is no claim {claim_id!r}.", rule="claim.exists")
        return found


def scope_of(session: Session, caller: Caller, act: Act) -> Scope:
    """Return whose claims the caller may do this with; `Forbidden` for a member of no funder."""
    if caller.is_operator:
        return Scope(everything=True)
    slugs = [slug for slug, role in caller.orgs.items() if allows(act, role)]
    query = (
        select(Funder.id)
        .join(Organisation, col(Organisation.id) == Funder.org_id)
        .where(col(Organisation.slug).in_(slugs))
    )
    found = frozenset(session.exec(query).all())
    if not found:
        raise Forbidden(
            f"Only the marketplace's officers and the funders may {act.value}.",
            rule=f"permission.{act.name}",
        )
    return Scope(everything=False, funder_ids=found)


@contextmanager
def funded(door: Door, authorization: str | None, act: Act) -> Iterator[tuple[Session, Scope]]:
    """Yield a session that reads, and the caller's scope."""
    with door.visiting(authorization, act) as (session, caller):
        yield session, scope_of(session, caller, act)


def assign(session: Session, code: str, slug: str) -> Funder:
    """Let an organisation's members act for a funder from now on. The same again changes nothing.

    `Conflict` while another organisation has it: give it up first with an empty slug.
    """
    row = funder(session, code)
    org_id = organisation(session, slug).id if slug else ""
    if row.org_id and org_id and row.org_id != org_id:
        raise Conflict(
            f"Another organisation acts for {code}.",
            rule="funder.organisation",
            remedy="Take it from that one first.",
        )
    row.org_id = org_id
    session.add(row)
    session.flush()
    return row


def funders(session: Session, scope: Scope) -> list[dict[str, Any]]:
    """Return the funders of a scope with their programmes: money (micro-yuan) and claims by state."""
    query = select(Funder).where(*scope.of(Funder.id)).order_by(col(Funder.code))
    return [
        {
            "id": row.id,
            "funder": row.code,
            "name_zh": row.name_zh,
            "level": row.level,
            "organisation": _slug(session, row.org_id),
            "programmes": _programmes(session, row.id),
        }
        for row in session.exec(query).all()
    ]


def _slug(session: Session, org_id: str) -> str:
    return session.get_one(Organisation, org_id).slug if org_id else ""


def _programmes(session: Session, funder_id: str) -> list[dict[str, Any]]:
    query = (
        select(Programme, ProgrammeFunder)
        .join(ProgrammeFunder, col(ProgrammeFunder.programme_id) == Programme.id)
        .where(ProgrammeFunder.funder_id == funder_id)
        .order_by(col(Programme.code), col(Programme.version))
    )
    return [
        {
            "programme": f"{made.code}@{made.version}",
            "state": made.state,
            "share_bp": place.share_bp,
            "appropriated_u": appropriated_u(session, made.id).get(funder_id, 0),
            "pool_u": totals(session, [place.pool_account_id])[place.pool_account_id].available,
            "claims_u": _claims(session, made.id, funder_id),
        }
        for made, place in session.exec(query).all()
    ]


def _claims(session: Session, programme_id: str, funder_id: str) -> dict[str, int]:
    rows = session.exec(
        select(Claim.state, func.sum(Claim.total_u))
        .where(Claim.programme_id == programme_id, Claim.funder_id == funder_id)
        .group_by(Claim.state)
    )
    return {state: int(total) for state, total in rows}
