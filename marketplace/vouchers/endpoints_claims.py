"""The API of what comes after a call: claims line by line, refunds, adjustments."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlmodel import Session

from catalog.ground.identity import Caller
from catalog.ground.ids import new_id
from marketplace.members.door import After, Authorization, Door, Limit, Signed, page, told
from marketplace.members.four_eyes import Act
from marketplace.vouchers import adjustments, claims, refunds
from marketplace.vouchers.claim_rules import findings
from marketplace.vouchers.claims import Verdict
from marketplace.vouchers.periods import period
from marketplace.vouchers.pools import funder
from marketplace.vouchers.programmes import programme
from marketplace.vouchers.schemas import (
    AdjustBody,
    AuditBody,
    ClawbackBody,
    DraftBody,
    RefundBody,
    SettleBody,
    SubmitBody,
)
from marketplace.vouchers.tables import Adjustment, Claim, Refund


def claims_routes(router: APIRouter, door: Door) -> None:
    """Add the routes."""
    _reading(router, door)
    _claims(router, door)
    _refunds(router, door)
    _adjustments(router, door)


def _reading(router: APIRouter, door: Door) -> None:
    @router.get("/claims")
    def list_claims(
        state: str | None = None,
        after: After = "",
        limit: Limit = 50,
        authorization: Authorization = None,
    ) -> dict[str, Any]:
        """List claims."""
        with door.reading(authorization, Act.CLAIMS) as session:
            conditions = [] if state is None else [Claim.state == state]
            return page(session, Claim, after, limit, *conditions)

    @router.get("/claims/{claim_id}")
    def show_claim(claim_id: str, authorization: Authorization = None) -> dict[str, Any]:
        """Return one claim."""
        with door.reading(authorization, Act.CLAIMS) as session:
            return told(claims.claim(session, claim_id))

    @router.get("/claims/{claim_id}/lines")
    def list_lines(
        claim_id: str, after: int = 0, limit: Limit = 100, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List a claim's lines by number."""
        with door.reading(authorization, Act.CLAIMS) as session:
            claims.claim(session, claim_id)
            rows = claims.lines(session, claim_id, after, limit + 1)
            more = len(rows) > limit
            return {
                "data": [told(row) for row in rows[:limit]],
                "next": rows[limit - 1].n if more else None,
            }

    @router.get("/claims/{claim_id}/findings")
    def list_findings(claim_id: str, authorization: Authorization = None) -> dict[str, Any]:
        """List the lines that a rule refuses, whatever an auditor says: rule, clause and words."""
        with door.reading(authorization, Act.CLAIMS) as session:
            row = claims.claim(session, claim_id)
            found = findings(session, row, claims.lines(session, claim_id))
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
            return told(row)

        return door.write(signed, Act.CLAIMS, body.plain(), work)

    @router.post("/claims/{claim_id}/submit")
    def submit(claim_id: str, body: SubmitBody, signed: Signed) -> Any:
        """Hand it in with its evidence."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            papers = [item.plain() for item in body.evidence]
            return told(claims.submit(session, claim_id, papers, caller.name, at_us))

        return door.write(signed, Act.CLAIMS, body.plain(), work)

    @router.post("/claims/{claim_id}/audit")
    def audit(claim_id: str, body: AuditBody, signed: Signed) -> Any:
        """Record verdicts; another person than who drafted or submitted it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            said = [Verdict(line.n, line.allow, line.reason) for line in body.lines]
            return told(claims.audit(session, claim_id, said, caller.name, at_us, rest=body.rest))

        return door.write(signed, Act.AUDIT, body.plain(), work)

    @router.post("/claims/{claim_id}/settle")
    def settle(claim_id: str, body: SettleBody, signed: Signed) -> Any:
        """Book the funder's payment; another person than all before."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(claims.settle(session, claim_id, body.bank_ref, caller.name, at_us))

        return door.write(signed, Act.SETTLE, body.plain(), work)

    @router.post("/claims/{claim_id}/withdraw")
    def withdraw(claim_id: str, signed: Signed) -> Any:
        """Take it back before it is audited."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(claims.withdraw(session, claim_id, caller.name, at_us))

        return door.write(signed, Act.CLAIMS, {}, work)

    @router.post("/claims/{claim_id}/clawback")
    def clawback(claim_id: str, body: ClawbackBody, signed: Signed) -> Any:
        """Book lines that the funder takes back after it has paid."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(
                claims.clawback(session, claim_id, body.lines, body.reason, caller.name, at_us)
            )

        return door.write(signed, Act.SETTLE, body.plain(), work)


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
