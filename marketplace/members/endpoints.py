"""The API of organisations under `/api/organisations`: people, projects, keys, facts and links.

Whatever a member does here, it does for its own organisation; everything else is the operator's. Every
write carries an `Idempotency-Key` (see `door`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from sqlmodel import Session

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.identity import Caller, Identify
from marketplace.members import organisations, parties, people, projects
from marketplace.members.door import After, Authorization, Door, Limit, Signed, page, told
from marketplace.members.endpoints_facts import facts_routes
from marketplace.members.endpoints_keys import keys_routes
from marketplace.members.four_eyes import Act
from marketplace.members.organisations import organisation
from marketplace.members.schemas import (
    EndBody,
    LinkBody,
    MemberBody,
    OrganisationBody,
    ProjectBody,
    ReasonBody,
    RoleBody,
    VerifyBody,
)
from marketplace.members.tables import Organisation, PartyLink


def members_router(
    database: Database,
    kind_of_entry: Callable[[str, str], str],
    identify: Identify | None = None,
    clock: Clock = now_us,
) -> APIRouter:
    """Return the routes; callers are identified by their keys.

    `kind_of_entry` takes a fact's name and its listing ('' for none) and returns the kind of its value;
    it raises `BadRequest` for a fact that nobody enters.
    """
    door = Door(database, identify, clock)
    router = APIRouter(prefix="/api", tags=["organisations"])
    _organisations(router, door)
    _people(router, door)
    _projects(router, door)
    keys_routes(router, door)
    facts_routes(router, door, kind_of_entry)
    _links(router, door)
    return router


def _organisations(router: APIRouter, door: Door) -> None:
    @router.get("/organisations")
    def list_organisations(
        after: After = "", limit: Limit = 50, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List organisations; their codes are masked."""
        with door.reading(authorization, Act.ORGANISATIONS) as session:
            return page(session, Organisation, after, limit, show=_org)

    @router.get("/organisations/{org}")
    def show_organisation(org: str, authorization: Authorization = None) -> dict[str, Any]:
        """Return one organisation with every change of its status."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            found = organisation(session, org)
            told_rows = [told(row) for row in organisations.statuses(session, found.id)]
            return _org(found) | {"statuses": told_rows}

    @router.post("/organisations", status_code=201)
    def create(body: OrganisationBody, signed: Signed) -> Any:
        """Add an organisation."""

        def work(session: Session, _caller: Caller, at_us: int) -> Any:
            made = organisations.create_organisation(
                session, body.slug, body.name, at_us, body.uscc
            )
            return _org(made)

        return door.write(signed, Act.ORGANISATIONS, body.plain(), work)

    @router.post("/organisations/{org}/verify")
    def verify(org: str, body: VerifyBody, signed: Signed) -> Any:
        """Record that somebody has compared it with its entry in the register."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return _org(
                organisations.verify_organisation(
                    session, org, body.uscc, body.name, caller.name, at_us
                )
            )

        return door.write(signed, Act.ORGANISATIONS, body.plain(), work)

    @router.post("/organisations/{org}/suspend")
    def suspend(org: str, body: ReasonBody, signed: Signed) -> Any:
        """Refuse its keys from now on; its money and its records stay as they are."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return _org(
                organisations.suspend_organisation(session, org, body.reason, caller.name, at_us)
            )

        return door.write(signed, Act.ORGANISATIONS, body.plain(), work)

    @router.post("/organisations/{org}/resume")
    def resume(org: str, body: ReasonBody, signed: Signed) -> Any:
        """Let it call again; another person than who suspended it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return _org(
                organisations.resume_organisation(session, org, body.reason, caller.name, at_us)
            )

        return door.write(signed, Act.ORGANISATIONS, body.plain(), work)


def _people(router: APIRouter, door: Door) -> None:
    @router.get("/organisations/{org}/members")
    def list_members(org: str, authorization: Authorization = None) -> dict[str, Any]:
        """List who acts for an organisation now."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            found = people.members_of(session, organisation(session, org).id)
            return {"data": [told(member) for member in found], "next": None}

    @router.post("/organisations/{org}/members", status_code=201)
    def add(org: str, body: MemberBody, signed: Signed) -> Any:
        """Let somebody act for it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            org_id = organisation(session, org).id
            return told(
                people.add_member(session, org_id, body.member, body.role, caller.name, at_us)
            )

        return door.write(signed, Act.MEMBERS, body.plain(), work, org)

    @router.post("/organisations/{org}/members/{member}/role")
    def change(org: str, member: str, body: RoleBody, signed: Signed) -> Any:
        """Give a member another role."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            org_id = organisation(session, org).id
            return told(people.change_role(session, org_id, member, body.role, caller.name, at_us))

        return door.write(signed, Act.MEMBERS, body.plain(), work, org)

    @router.post("/organisations/{org}/members/{member}/remove")
    def remove(org: str, member: str, signed: Signed) -> Any:
        """End a membership; the member's keys are revoked with it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            org_id = organisation(session, org).id
            count = people.remove_member(session, org_id, member, caller.name, at_us)
            return {"member": member, "keys_revoked": count}

        return door.write(signed, Act.MEMBERS, {}, work, org)


def _projects(router: APIRouter, door: Door) -> None:
    @router.get("/organisations/{org}/projects")
    def list_projects(org: str, authorization: Authorization = None) -> dict[str, Any]:
        """List an organisation's projects."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            found = projects.projects(session, organisation(session, org).id)
            return {"data": [told(project) for project in found], "next": None}

    @router.post("/organisations/{org}/projects", status_code=201)
    def create(org: str, body: ProjectBody, signed: Signed) -> Any:
        """Add a project."""

        def work(session: Session, _caller: Caller, at_us: int) -> Any:
            org_id = organisation(session, org).id
            return told(projects.create_project(session, org_id, body.name, at_us))

        return door.write(signed, Act.MEMBERS, body.plain(), work, org)


def _links(router: APIRouter, door: Door) -> None:
    @router.get("/party-links")
    def list_links(
        after: After = "", limit: Limit = 50, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List who belongs together with whom."""
        with door.reading(authorization, Act.ORGANISATIONS) as session:
            return page(session, PartyLink, after, limit)

    @router.post("/party-links", status_code=201)
    def add_link(body: LinkBody, signed: Signed) -> Any:
        """Record that two parties belong together; public money stops flowing between them."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            made = parties.add_link(
                session,
                parties.party(session, body.first),
                parties.party(session, body.second),
                body.kind,
                by=caller.name,
                at_us=at_us,
                valid_from_us=body.valid_from_us,
                valid_to_us=body.valid_to_us,
                holding_bp=body.holding_bp,
                evidence_sha256=body.evidence.sha256 if body.evidence else "",
                evidence_name=body.evidence.name if body.evidence else "",
            )
            return told(made)

        return door.write(signed, Act.ORGANISATIONS, body.plain(), work)

    @router.post("/party-links/{link_id}/end")
    def end_link(link_id: str, body: EndBody, signed: Signed) -> Any:
        """Let a link hold no longer."""

        def work(session: Session, _caller: Caller, at_us: int) -> Any:
            until_us = at_us if body.until_us is None else body.until_us
            return told(parties.end_link(session, link_id, until_us))

        return door.write(signed, Act.ORGANISATIONS, body.plain(), work)


def _org(row: Organisation) -> dict[str, Any]:
    return told(row) | {"uscc": organisations.masked_uscc(row)}
