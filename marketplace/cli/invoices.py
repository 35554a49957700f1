"""`tokenmart voucher invoice`: a voucher spent on a contract outside the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sqlmodel import Session

from catalog.ground.clock import now_us
from catalog.ground.errors import BadRequest
from catalog.ground.ids import new_id
from catalog.ground.units import format_yuan, parse_yuan
from marketplace.cli.options import ByOption, evidence_of
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.members.organisations import organisation
from marketplace.members.tables import Organisation
from marketplace.settings import Settings
from marketplace.vouchers import invoices
from marketplace.vouchers.invoices import Paper
from marketplace.vouchers.tables import ContractInvoice

app = typer.Typer(
    help="Invoices on contracts outside the gateway, paid in part by vouchers.",
    no_args_is_help=True,
)

InvoiceId = Annotated[str, typer.Argument(metavar="INVOICE", help="the invoice's id")]


@app.command("present")
def present(
    application: Annotated[str, typer.Argument(help="the approved application's id")],
    number: Annotated[str, typer.Argument(help="the number printed on the invoice")],
    charge: Annotated[
        list[str], typer.Option(help="<what>=<yuan>, such as compute=120.50 (repeat)")
    ],
    evidence: Annotated[list[str], typer.Option(help="<kind>=<file>: its hash is kept (repeat)")],
    by: ByOption,
    tx: Annotated[
        str | None, typer.Option("--tx", help="id of this act; the same id is done once")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Present an invoice with what proves it. One --evidence is invoice=<file>."""
    charges = {what: parse_yuan(yuan) for what, yuan in map(_pair, charge)}
    papers = []
    for kind, name in map(_pair, evidence):
        sha256, told = evidence_of(Path(name))
        papers.append({"kind": kind, "name": told, "sha256": sha256})
    paper = Paper(number, charges, papers)
    with Settings().database.session() as session:
        made = invoices.present(session, tx or new_id("inv"), application, paper, by, now_us())
        show([_row(session, made)], form)
    say("Another person accepts it: tokenmart voucher invoice accept.")


@app.command("accept")
def accept(invoice: InvoiceId, by: ByOption, form: FormatOption = Format.TABLE) -> None:
    """Let the voucher pay its part. Not by who presented it or applied."""
    with Settings().database.session() as session:
        show([_row(session, invoices.accept(session, invoice, by, now_us()))], form)


@app.command("refuse")
def refuse(
    invoice: InvoiceId,
    reason: Annotated[str, typer.Option(help="why")],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say no, with the reason; it may be presented again, corrected."""
    with Settings().database.session() as session:
        show([_row(session, invoices.refuse(session, invoice, reason, by, now_us()))], form)


@app.command("list")
def list_(org: str | None = None, form: FormatOption = Format.TABLE) -> None:
    """List invoices, oldest first."""
    with Settings().database.reading() as session:
        org_id = None if org is None else organisation(session, org).id
        show([_row(session, made) for made in invoices.invoices(session, org_id)], form)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise BadRequest(f"{text!r} is not <name>=<value>.", rule="invoice.form")
    return name, value


def _row(session: Session, made: ContractInvoice) -> dict[str, Any]:
    return {
        "invoice": made.id,
        "application": made.application_id,
        "organisation": session.get_one(Organisation, made.org_id).slug,
        "provider": invoices.provider_name(session, made),
        "number": made.number,
        "amount": format_yuan(made.amount_u),
        "subsidised": format_yuan(made.eligible_u),
        "state": made.state,
        "reason": made.reason,
    }
