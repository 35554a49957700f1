"""The payout API under `/api`: fees, accruals, reviews, statements, payouts and payment files."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session, col

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.identity import Caller, Identify
from catalog.ground.ids import new_id
from marketplace.members.door import After, Authorization, Door, Limit, Signed, page, told
from marketplace.members.four_eyes import Act
from marketplace.members.organisations import organisation
from marketplace.payouts import accruals, files, holds, service
from marketplace.payouts.fees import publish_fee
from marketplace.payouts.statements import statement
from marketplace.payouts.tables import FeeVersion, Payout

Text = Annotated[str, Field(min_length=1, max_length=2000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FeeBody(_Body):
    """A fee from `effective_from_us` on (default: now); `scope` '' or `owner:<id>` or `listing:<slug>`."""

    scope: str = ""
    fee_bp: Annotated[int, Field(ge=0, le=10_000)]
    effective_from_us: int | None = None
    reason: Text


class PrepareBody(_Body):
    """A payout of what is available to `org`, or of `amount_u` micro-yuan of it."""

    org: Text
    amount_u: Annotated[int, Field(gt=0)] | None = None


class HoldBody(_Body):
    """A review of an organisation or its listings."""

    org: Text
    reason: Text


class ReasonBody(_Body):
    """Why."""

    reason: Text


class PaidBody(_Body):
    """The bank's reference."""

    bank_ref: Text


def payouts_router(
    database: Database, identify: Identify | None = None, clock: Clock = now_us
) -> APIRouter:
    """Return the routes; callers are identified by their keys."""
    door = Door(database, identify, clock)
    router = APIRouter(prefix="/api", tags=["payouts"])
    _fees(router, door)
    _statements(router, door)
    _payouts(router, door)
    _files(router, door)
    return router


def _fees(router: APIRouter, door: Door) -> None:
    @router.get("/fees")
    def list_fees(after: After = "", limit: Limit = 50) -> dict[str, Any]:
        """List the platform's fee versions: they are public."""
        with door.database.reading() as session:
            return page(session, FeeVersion, after, limit)

    @router.post("/fees", status_code=201)
    def publish(body: FeeBody, signed: Signed) -> Any:
        """Publish a fee from an instant on."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            from_us = at_us if body.effective_from_us is None else body.effective_from_us
            return told(
                publish_fee(
                    session, body.scope, body.fee_bp, from_us, caller.name, body.reason, at_us
                )
            )

        return door.write(signed, Act.PAYOUTS, body.model_dump(), work)


def _statements(router: APIRouter, door: Door) -> None:
    @router.get("/statements/{org}/{period}")
    def show_statement(
        org: str, period: str, authorization: Authorization = None
    ) -> dict[str, Any]:
        """Return an organisation's month; it is made and kept when it is first asked for."""
        with door.reading(authorization, Act.READ_OWN, org):
            pass
        with door.database.session() as session:
            return told(statement(session, organisation(session, org).id, period, door.clock()))

    @router.post("/payouts/accrue")
    def accrue(signed: Signed) -> Any:
        """Add up what was earned and mature what is due."""

        def work(session: Session, _caller: Caller, at_us: int) -> Any:
            added = accruals.accrue(session, at_us)
            return {"accruals": added, "matured_u": accruals.mature(session, at_us)}

        return door.write(signed, Act.PAYOUTS, {}, work)

    @router.post("/payouts/holds", status_code=201)
    def hold(body: HoldBody, signed: Signed) -> Any:
        """Let nothing mature or be approved while something is under review."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            org_id = organisation(session, body.org).id
            return told(holds.hold(session, new_id("phd"), org_id, body.reason, caller.name, at_us))

        return door.write(signed, Act.PAYOUTS, body.model_dump(), work)

    @router.post("/payouts/holds/{hold_id}/release")
    def release(hold_id: str, signed: Signed) -> Any:
        """End a review's hold; another person than who made it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(holds.release(session, hold_id, caller.name, at_us))

        return door.write(signed, Act.PAYOUTS, {}, work)


def _payouts(router: APIRouter, door: Door) -> None:
    @router.get("/payouts")
    def list_payouts(
        org: str = "", after: After = "", limit: Limit = 50, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List payouts; a member names its own organisation."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            own = [col(Payout.org_id) == organisation(session, org).id] if org else []
            return page(session, Payout, after, limit, *own)

    @router.post("/payouts", status_code=201)
    def prepare(body: PrepareBody, signed: Signed) -> Any:
        """Set aside what is available to an organisation."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            org_id = organisation(session, body.org).id
            return told(
                service.prepare(
                    session, new_id("pay"), org_id, caller.name, at_us, amount_u=body.amount_u
                )
            )

        return door.write(signed, Act.PAYOUTS, body.model_dump(), work)

    @router.post("/payouts/{payout_id}/approve")
    def approve(payout_id: str, signed: Signed) -> Any:
        """Let it be paid; another person than who prepared it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(service.approve(session, payout_id, caller.name, at_us))

        return door.write(signed, Act.PAYOUTS, {}, work)

    @router.post("/payouts/{payout_id}/paid")
    def paid(payout_id: str, body: PaidBody, signed: Signed) -> Any:
        """Note the bank's reference."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(service.paid(session, payout_id, body.bank_ref, caller.name, at_us))

        return door.write(signed, Act.PAYOUTS, body.model_dump(), work)

    @router.post("/payouts/{payout_id}/reverse")
    def reverse(payout_id: str, body: ReasonBody, signed: Signed) -> Any:
        """Take it back; the money is available again."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(service.reverse(session, payout_id, body.reason, caller.name, at_us))

        return door.write(signed, Act.PAYOUTS, body.model_dump(), work)


def _files(router: APIRouter, door: Door) -> None:
    @router.post("/payouts/export", status_code=201)
    def export(signed: Signed) -> Any:
        """Put every approved payout into a payment file."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            row = files.export(session, new_id("pfl"), caller.name, at_us)
            return files.as_json(session, row.id)

        return door.write(signed, Act.PAYOUTS, {}, work)

    @router.get("/payouts/files/{file_id}")
    def show_file(file_id: str, authorization: Authorization = None) -> dict[str, Any]:
        """Return a payment file as data."""
        with door.reading(authorization, Act.PAYOUTS) as session:
            return files.as_json(session, file_id)

    @router.get("/payouts/files/{file_id}/csv")
    def show_csv(file_id: str, authorization: Authorization = None) -> Response:
        """Return a payment file as CSV."""
        with door.reading(authorization, Act.PAYOUTS) as session:
            files.payment_file(session, file_id)
            return Response(files.as_csv(session, file_id), media_type="text/csv; charset=utf-8")
