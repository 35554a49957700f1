"""The API of invoices: vouchers spent on contracts outside the gateway."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from sqlmodel import Session, col

from catalog.ground.errors import NotFound
from catalog.ground.identity import Caller
from catalog.ground.ids import new_id
from marketplace.members.door import After, Authorization, Door, Limit, Signed, page, told
from marketplace.members.four_eyes import Act
from marketplace.members.organisations import organisation
from marketplace.vouchers import invoices
from marketplace.vouchers.applications import application
from marketplace.vouchers.invoices import Paper
from marketplace.vouchers.schemas import InvoiceBody, ReasonBody
from marketplace.vouchers.tables import ContractInvoice


def invoices_routes(router: APIRouter, door: Door) -> None:
    """Add the routes."""

    @router.get("/invoices")
    def list_invoices(
        org: str = "", after: After = "", limit: Limit = 50, authorization: Authorization = None
    ) -> dict[str, Any]:
        """List invoices; a member names its own organisation."""
        with door.reading(authorization, Act.READ_OWN, org) as session:
            own = [col(ContractInvoice.org_id) == organisation(session, org).id] if org else []
            return page(session, ContractInvoice, after, limit, *own, show=_invoice)

    @router.post("/invoices", status_code=201)
    def present(body: InvoiceBody, signed: Signed) -> Any:
        """Present an invoice; what the programme refuses is refused at once, by rule and clause."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            row = application(session, body.application)
            if row.org_id != organisation(session, body.org).id:
                raise NotFound(f"There is no application {row.id!r}.", rule="application.exists")
            papers = [item.plain() for item in body.evidence]
            paper = Paper(body.number, body.charges, papers)
            made = invoices.present(session, new_id("inv"), row.id, paper, caller.name, at_us)
            return _invoice(made)

        return door.write(signed, Act.APPLY, body.plain(), work, body.org)

    @router.post("/invoices/{invoice_id}/accept")
    def accept(invoice_id: str, signed: Signed) -> Any:
        """Let the voucher pay its part; another person than who presented it or applied."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            return _invoice(invoices.accept(session, invoice_id, caller.name, at_us))

        return door.write(signed, Act.DECIDE, {}, work)

    @router.post("/invoices/{invoice_id}/refuse")
    def refuse(invoice_id: str, body: ReasonBody, signed: Signed) -> Any:
        """Say no, with the reason; it may be presented again, corrected."""

        def work(session: Session, caller: Caller, at_us: int) -> Any:
            made = invoices.refuse(session, invoice_id, body.reason, caller.name, at_us)
            return _invoice(made)

        return door.write(signed, Act.DECIDE, body.plain(), work)


def _invoice(row: ContractInvoice) -> dict[str, Any]:
    return told(row) | {"charges": json.loads(row.charges)}
