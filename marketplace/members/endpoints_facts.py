"""The API of dated facts: entered for an organisation, counted once an officer has verified them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from sqlmodel import Session

from catalog.ground.identity import Caller
from marketplace.members import facts
from marketplace.members.door import Authorization, Door, Signed, told
from marketplace.members.four_eyes import Act
from marketplace.members.organisations import organisation
from marketplace.members.schemas import EndBody, FactBody
from marketplace.members.tables import OrgFact


def facts_routes(router: APIRouter, door: Door, kind_of_entry: Callable[[str, str], str]) -> None:
    """Add the routes. `kind_of_entry` as for `members_router`."""

    @router.get("/organisations/{org}/facts")
    def list_facts(org: str, authorization: Authorization = None) -> dict[str, Any]:
        """List what is on record about an organisation, oldest first."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            found = facts.facts_for(session, organisation(session, org).id)
            return {"data": [_fact(fact, door.clock()) for fact in found], "next": None}

    @router.post("/organisations/{org}/facts", status_code=201)
    def enter(org: str, body: FactBody, signed: Signed) -> Any:
        """Enter a fact with its evidence. It counts once an officer has verified it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            made = facts.enter_fact(
                session,
                organisation(session, org).id,
                body.key,
                facts.parse_value(kind_of_entry(body.key, body.listing), body.value),
                valid_from_us=body.valid_from_us,
                valid_to_us=body.valid_to_us,
                evidence_sha256=body.evidence.sha256,
                evidence_name=body.evidence.name,
                by=caller.name,
                at_us=at_us,
                listing=body.listing,
            )
            return _fact(made, at_us)

        return door.write(signed, Act.FACTS, body.plain(), work, org)

    @router.post("/facts/{fact_id}/verify")
    def verify(fact_id: str, signed: Signed) -> Any:
        """Let a fact count: the officer has compared it with its evidence, and did not enter it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return _fact(facts.verify_fact(session, fact_id, caller.name, at_us), at_us)

        return door.write(signed, Act.ORGANISATIONS, {}, work)

    @router.post("/facts/{fact_id}/end")
    def end(fact_id: str, body: EndBody, signed: Signed) -> Any:
        """Let a fact hold no longer; what it paid for until then stands."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            until_us = at_us if body.until_us is None else body.until_us
            return _fact(facts.end_fact(session, fact_id, until_us, caller.name), at_us)

        return door.write(signed, Act.ORGANISATIONS, body.plain(), work)


def _fact(row: OrgFact, at_us: int) -> dict[str, Any]:
    return told(row) | {"value": json.loads(row.value), "state": facts.state_at(row, at_us)}
