"""The API of what comes after a call: claims line by line, refunds, adjustments."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter
from sqlmodel import Session

from catalog.ground.identity import Caller
from catalog.ground.ids import new_id
from marketplace.members.door import After, Authorization, Door, Limit, Signed, page, told
from marketplace.members.four_eyes import Act
from marketplace.vouchers import adjustments, claims, funders, refunds
from marketplace.vouchers.claim_rules import findings
from marketplace.vouchers.claims import Verdict
from marketplace.vouchers.funders import funded, scope_of
from marketplace.vouchers.periods import period
from marketplace.vouchers.pools import funder
from marketplace.vouchers.programmes import programme
from marketplace.vouchers.schemas import (
    AdjustBody,
    AuditBody,
    ClawbackBody,
    DraftBody,
    OrganisationBody,
    RefundBody,
    RefuseBody,
    SettleBody,
    SubmitBody,
)
from marketplace.vouchers.tables import Adjustment, Claim, Funder, Programme, Refund


def claims_routes(router: APIRouter, door: Door) -> None:
    """Add the routes."""
    _reading(router, door)
    _claims(router, door)
    _funders(router, door)
    _refunds(router, door)
    _adjustments(router, door)


def _reading(router: APIRouter, door: Door) -> None:
    @router.get("/funders")
    def list_funders(authorization: Authorization = None) -> dict[str, Any]:
        """List funders with their programmes and claims; a funder's member sees its own."""
        with funded(door, authorization, Act.READ_CLAIMS) as (session, scope):
            return {"data": funders.funders(session, scope), "next": None}

    @router.get("/claims")
    def list_claims(
        state: str | None = None,
        after: After = "",
        limit: Limit = 50,
        authorization: Authorization = None,
    ) -> dict[str, Any]:
        """List claims; a funder's member sees those on its own funder."""
        with funded(door, authorization, Act.READ_CLAIMS) as (session, scope):
            conditions = scope.of(Claim.funder_id)
            if state is not None:
                conditions.append(Claim.state == state)
            return page(session, Claim, after, limit, *conditions, show=partial(_claim, session))

    @router.get("/claims/{claim_id}")
    def show_claim(claim_id: str, authorization: Authorization = None) -> dict[str, Any]:
        """Return one claim."""
        with funded(door, authorization, Act.READ_CLAIMS) as (session, scope):
            return _claim(session, scope.claim(session, claim_id))

    @router.get("/claims/{claim_id}/lines")
    def list_lines(
        claim_id: str, after: int = 0, limit: Limit = 100, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List a claim's lines by number."""
        with funded(door, authorization, Act.READ_CLAIMS) as (session, scope):
            row = scope.claim(session, claim_id)
            rows = claims.lines(session, row.id, after, limit + 1)
            more = len(rows) > limit
            return {
                "data": [told(row) for row in rows[:limit]],
                "next": rows[limit - 1].n if more else None,
            }

    @router.get("/claims/{claim_id}/findings")
    def list_findings(claim_id: str, authorization: Authorization = None) -> dict[str, Any]:
        """List the lines that a rule refuses, whatever an auditor says: rule, clause and words."""
        with funded(door, authorization, Act.READ_CLAIMS) as (session, scope):
            row = scope.claim(session, claim_id)
            found = findings(session, row, claims.lines(session, row.id))
            rows = [
                {"n": n, "rule": r.rule, "clause": r.clause, "message": r.message}
                for n, r in sorted(found.items())
            ]
            return {"data": rows, "next": None}


def _claims(router: APIRouter, door: Door) -> None:
    @router.post("/claims", status_code=201)
    def draft(body: DraftBody, signed: Signed) -> Any:
        """Draft a claim: everything this funder owes up to the period's end and was not claimed."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            made, who = programme(session, body.programme), funder(session, body.funder)
            row = claims.draft(
                session, new_id("clm"), made, who.id, period(body.period), caller.name, at_us
            )
            return _claim(session, row)

        return door.write(signed, Act.CLAIMS, body.plain(), work)

    @router.post("/claims/{claim_id}/submit")
    def submit(claim_id: str, body: SubmitBody, signed: Signed) -> Any:
        """Hand it in with its evidence."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            papers = [item.plain() for item in body.evidence]
            row = claims.submit(session, claim_id, papers, caller.name, at_us)
            return _claim(session, row)

        return door.write(signed, Act.CLAIMS, body.plain(), work)

    @router.post("/claims/{claim_id}/audit")
    def audit(claim_id: str, body: AuditBody, signed: Signed) -> Any:
        """Record verdicts; another person than who drafted or submitted it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            scope_of(session, caller, Act.AUDIT).claim(session, claim_id)
            said = [Verdict(line.n, line.allow, line.reason) for line in body.lines]
            row = claims.audit(session, claim_id, said, caller.name, at_us, rest=body.rest)
            return _claim(session, row)

        return door.write(signed, Act.AUDIT, body.plain(), work)

    @router.post("/claims/{claim_id}/settle")
    def settle(claim_id: str, body: SettleBody, signed: Signed) -> Any:
        """Book the funder's payment; another person than all before."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            scope_of(session, caller, Act.SETTLE).claim(session, claim_id)
            row = claims.settle(session, claim_id, body.bank_ref, caller.name, at_us)
            return _claim(session, row)

        return door.write(signed, Act.SETTLE, body.plain(), work)

    @router.post("/claims/{claim_id}/refuse")
    def refuse(claim_id: str, body: RefuseBody, signed: Signed) -> Any:
        """Do not pay lines that the audit has allowed; all of them when none is named."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            scope_of(session, caller, Act.SETTLE).claim(session, claim_id)
            row = claims.refuse(session, claim_id, body.lines, body.reason, caller.name, at_us)
            return _claim(session, row)

        return door.write(signed, Act.SETTLE, body.plain(), work)

    @router.post("/claims/{claim_id}/withdraw")
    def withdraw(claim_id: str, signed: Signed) -> Any:
        """Take it back before it is audited."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            row = claims.withdraw(session, claim_id, caller.name, at_us)
            return _claim(session, row)

        return door.write(signed, Act.CLAIMS, {}, work)

    @router.post("/claims/{claim_id}/clawback")
    def clawback(claim_id: str, body: ClawbackBody, signed: Signed) -> Any:
        """Book lines that the funder takes back after it has paid."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            scope_of(session, caller, Act.SETTLE).claim(session, claim_id)
            row = claims.clawback(session, claim_id, body.lines, body.reason, caller.name, at_us)
            return _claim(session, row)

        return door.write(signed, Act.SETTLE, body.plain(), work)


def _funders(router: APIRouter, door: Door) -> None:
    @router.post("/funders/{code}/organisation")
    def assign(code: str, body: OrganisationBody, signed: Signed) -> Any:
        """Let an organisation's members act for a funder; an empty name takes it back."""

        def work(session: Session, _caller: Caller, _at_us: int) -> Any:
            return told(funders.assign(session, code, body.org))

        return door.write(signed, Act.PROGRAMMES, body.plain(), work)


def _refunds(router: APIRouter, door: Door) -> None:
    @router.get("/refunds")
    def list_refunds(
        event: str = "", after: After = "", limit: Limit = 50, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List refunds, of one call when it is named."""
        with door.reading(authorization, Act.REFUND) as session:
            conditions = [Refund.event_id == event] if event else []
            return page(session, Refund, after, limit, *conditions)

    @router.post("/refunds", status_code=201)
    def refund(body: RefundBody, signed: Signed) -> Any:
        """Give part of a call back to who paid it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            row = refunds.refund(
                session,
                new_id("rfd"),
                body.event,
                body.amount_u,
                body.reason,
                caller.name,
                at_us,
            )
            legs = refunds.legs_returned(session, [row.id])
            return told(row) | {"legs": [told(leg) for leg in legs]}

        return door.write(signed, Act.REFUND, body.plain(), work)


def _adjustments(router: APIRouter, door: Door) -> None:
    @router.get("/adjustments")
    def list_adjustments(
        after: After = "", limit: Limit = 50, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List adjustments."""
        with door.reading(authorization, Act.ADJUST) as session:
            return page(session, Adjustment, after, limit)

    @router.post("/adjustments", status_code=201)
    def propose(body: AdjustBody, signed: Signed) -> Any:
        """Propose a correction of the ledger."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            row = adjustments.propose(
                session,
                new_id("adj"),
                body.from_account,
                body.to_account,
                body.amount_u,
                body.reason,
                caller.name,
                at_us,
            )
            return told(row)

        return door.write(signed, Act.ADJUST, body.plain(), work)

    @router.post("/adjustments/{adjustment_id}/book")
    def book(adjustment_id: str, signed: Signed) -> Any:
        """Book it; another person than who proposed it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(adjustments.book(session, adjustment_id, caller.name, at_us))

        return door.write(signed, Act.ADJUST, {}, work)


def _claim(session: Session, row: Claim) -> dict[str, Any]:
    """Return a claim with the names of its programme and funder."""
    made = session.get_one(Programme, row.programme_id)
    return told(row) | {
        "programme": f"{made.code}@{made.version}",
        "funder": session.get_one(Funder, row.funder_id).code,
    }
