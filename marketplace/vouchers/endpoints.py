"""The voucher API under `/api`: programmes, applications, vouchers and codes (claims: `endpoints_claims`)."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from sqlmodel import Session, col

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.identity import Caller, Identify
from catalog.ground.ids import new_id
from marketplace.ledger.reading import totals
from marketplace.members.door import After, Authorization, Door, Limit, Signed, page, told
from marketplace.members.four_eyes import Act
from marketplace.members.organisations import organisation
from marketplace.members.parties import party
from marketplace.vouchers import applications, codes, programmes, returning
from marketplace.vouchers.applications import Wish
from marketplace.vouchers.codes import CodeTerms
from marketplace.vouchers.endpoints_claims import claims_routes
from marketplace.vouchers.endpoints_invoices import invoices_routes
from marketplace.vouchers.pools import appropriate, fund, funder
from marketplace.vouchers.schemas import (
    AmountBody,
    ApplyBody,
    CodeBody,
    FundBody,
    PublishBody,
    ReasonBody,
    RedeemBody,
)
from marketplace.vouchers.tables import Application, Grant, Programme, VoucherCode


def vouchers_router(
    database: Database, identify: Identify | None = None, clock: Clock = now_us
) -> APIRouter:
    """Return the routes; callers are identified by their keys."""
    door = Door(database, identify, clock)
    router = APIRouter(prefix="/api", tags=["vouchers"])
    _programmes(router, door)
    _applications(router, door)
    _grants(router, door)
    _codes(router, door)
    invoices_routes(router, door)
    claims_routes(router, door)
    return router


def _programmes(router: APIRouter, door: Door) -> None:
    @router.get("/programmes")
    def list_programmes(state: str | None = None) -> dict[str, Any]:
        """List programmes: published rules are public, drafts are left out."""
        with door.database.reading() as session:
            found = programmes.programmes(session, state)
            rows = [programmes.describe(session, p) for p in found if p.state != programmes.DRAFT]
            return {"data": rows, "next": None}

    @router.get("/programmes/{code}")
    def show_programme(code: str) -> dict[str, Any]:
        """Return one programme with its rules; `code` or `code@version`."""
        with door.database.reading() as session:
            made = programmes.programme(session, code)
            if made.state == programmes.DRAFT:
                raise NotFound(f"There is no programme {code!r}.", rule="programme.exists")
            return programmes.describe(session, made) | {"rules": json.loads(made.rules)}

    @router.post("/programmes", status_code=201)
    def publish(body: PublishBody, signed: Signed) -> Any:
        """Publish a version (or keep it as a draft)."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            make = programmes.draft if body.draft else programmes.publish
            text = json.dumps(body.document, ensure_ascii=False)
            return programmes.describe(session, make(session, text, caller.name, at_us))

        return door.write(signed, Act.PROGRAMMES, body.plain(), work)

    @router.post("/programmes/{code}/fund", status_code=201)
    def fund_programme(code: str, body: FundBody, signed: Signed) -> Any:
        """Book what funders appropriate."""
        if (body.amounts_u is None) == (body.total_u is None):
            raise BadRequest("Give amounts_u or total_u.", rule="fund.amount", param="amounts_u")

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            made = programmes.open_programme(session, code)
            tx, by = new_id("fnd"), caller.name
            if body.total_u is not None:
                fund(session, tx, made.id, body.total_u, at_us, by=by, document=body.document)
            else:
                shares = {funder(session, c).id: u for c, u in (body.amounts_u or {}).items()}
                appropriate(session, tx, made.id, shares, at_us, by=by, document=body.document)
            return programmes.describe(session, made)

        return door.write(signed, Act.PROGRAMMES, body.plain(), work)

    @router.post("/programmes/{code}/close")
    def close(code: str, signed: Signed) -> Any:
        """Issue nothing more under this version."""

        def work(session: Session, _caller: Caller, _at_us: int) -> Any:
            made = programmes.close(session, programmes.programme(session, code))
            return programmes.describe(session, made)

        return door.write(signed, Act.PROGRAMMES, {}, work)


def _applications(router: APIRouter, door: Door) -> None:
    @router.get("/applications")
    def list_applications(
        org: str = "",
        state: str | None = None,
        after: After = "",
        limit: Limit = 50,
        authorization: Authorization = None,
    ) -> dict[str, Any]:
        """List applications; a member sees those of its own organisation, which it names."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            conditions = _of_org(session, Application, org)
            if state is not None:
                conditions.append(Application.state == state)
            return page(session, Application, after, limit, *conditions)

    @router.post("/applications", status_code=201)
    def apply(body: ApplyBody, signed: Signed) -> Any:
        """Apply for a voucher; what the programme refuses is refused at once, by rule and clause."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            wish = Wish(
                body.requested_u,
                body.contract_ref,
                body.facts,
                [item.plain() for item in body.evidence],
                body.claimant,
                party(session, body.provider) if body.provider else "",
            )
            made = programmes.open_programme(session, body.programme)
            org_id = organisation(session, body.org).id
            row = applications.apply(session, new_id("app"), made, org_id, wish, caller.name, at_us)
            return told(row)

        return door.write(signed, Act.APPLY, body.plain(), work, body.org)

    @router.post("/applications/{application_id}/prepare")
    def prepare(application_id: str, body: AmountBody, signed: Signed) -> Any:
        """Propose an amount for another officer to approve."""

        def work(session: Session, caller: Caller, _at_us: int) -> Any:
            row = applications.application(session, application_id)
            amount_u = body.amount_u or row.requested_u
            return told(applications.prepare(session, row.id, amount_u, caller.name))

        return door.write(signed, Act.DECIDE, body.plain(), work)

    @router.post("/applications/{application_id}/approve")
    def approve(application_id: str, body: AmountBody, signed: Signed) -> Any:
        """Grant it, as far as caps and pools reach."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            grants = applications.approve(
                session, application_id, caller.name, at_us, body.amount_u
            )
            row = applications.application(session, application_id)
            return told(row) | {"vouchers": [told(grant) for grant in grants]}

        return door.write(signed, Act.DECIDE, body.plain(), work)

    @router.post("/applications/{application_id}/reject")
    def reject(application_id: str, body: ReasonBody, signed: Signed) -> Any:
        """Say no, with the reason."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return told(
                applications.reject(session, application_id, caller.name, body.reason, at_us)
            )

        return door.write(signed, Act.DECIDE, body.plain(), work)


def _grants(router: APIRouter, door: Door) -> None:
    @router.get("/vouchers")
    def list_vouchers(
        org: str = "", after: After = "", limit: Limit = 50, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List vouchers with what is left and held of them; a member names its own organisation."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            found = page(session, Grant, after, limit, *_of_org(session, Grant, org))
            held = totals(session, [row["account_id"] for row in found["data"]])
            for row in found["data"]:
                account = held[row["account_id"]]
                made = session.get_one(Programme, row["programme_id"])
                row["programme"] = f"{made.code}@{made.version}"
                row["available"], row["held"] = account.available, account.dr_pending
                row["used"] = account.dr_posted - row["returned"] - row["refunded"]
            return found

    @router.post("/vouchers/{grant_id}/void")
    def void(grant_id: str, body: ReasonBody, signed: Signed) -> Any:
        """Take a voucher away; its rest goes back to the funders."""

        def work(session: Session, _caller: Caller, at_us: int) -> Any:
            return told(returning.void(session, grant_id, body.reason, at_us))

        return door.write(signed, Act.DECIDE, body.plain(), work)

    @router.post("/vouchers/lapse")
    def lapse(signed: Signed) -> Any:
        """Return what expired vouchers still hold, up to 200 of them."""

        def work(session: Session, _caller: Caller, at_us: int) -> Any:
            return {"lapsed": returning.lapse(session, at_us)}

        return door.write(signed, Act.PROGRAMMES, {}, work)


def _codes(router: APIRouter, door: Door) -> None:
    @router.get("/codes")
    def list_codes(
        after: After = "", limit: Limit = 50, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List codes by their first letters; the codes themselves are not kept."""
        with door.reading(authorization, Act.CODES) as session:
            return page(session, VoucherCode, after, limit)

    @router.post("/codes", status_code=201)
    def create(body: CodeBody, signed: Signed) -> Any:
        """Make a code. It is shown in this answer only; a repeat gets the row without it."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            terms = CodeTerms(
                body.amount_u,
                body.uses_max,
                body.expires_at_us,
                body.per_org_max,
                body.grant_ttl_days,
            )
            made = programmes.open_programme(session, body.programme)
            row, secret = codes.create_code(session, new_id("vcd"), made, terms, caller.name, at_us)
            shown.append(secret)
            return told(row)

        shown: list[str] = []
        answer = door.write(signed, Act.CODES, body.plain(), work)
        # The code itself stays out of the kept answer: the database knows only its hash.
        return answer | {"code": shown[0] if shown else None}

    @router.post("/codes/redeem", status_code=201)
    def redeem(body: RedeemBody, signed: Signed) -> Any:
        """Turn a code into a voucher."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            org_id = organisation(session, body.org).id
            return told(codes.redeem(session, new_id("rdm"), body.code, org_id, caller.name, at_us))

        return door.write(signed, Act.REDEEM, body.plain(), work, body.org)

    @router.post("/codes/{code_id}/revoke")
    def revoke(code_id: str, signed: Signed) -> Any:
        """Let nobody redeem it any more."""

        def work(session: Session, _caller: Caller, at_us: int) -> Any:
            return told(codes.revoke_code(session, code_id, at_us))

        return door.write(signed, Act.CODES, {}, work)


def _of_org(session: Session, table: Any, org: str) -> list[Any]:
    """Return the condition that rows belong to `org`; none when an operator asks for all."""
    return [col(table.org_id) == organisation(session, org).id] if org else []
