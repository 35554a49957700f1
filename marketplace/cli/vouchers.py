"""`tokenmart voucher`: issue and list vouchers (词元券)."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlmodel import select

from catalog.ground.clock import now_us
from catalog.ground.errors import Forbidden
from catalog.ground.ids import new_id
from catalog.ground.units import format_yuan, parse_yuan
from marketplace.cli import adjustments, invoices, voucher_life
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.ledger.chart import CNY
from marketplace.members.keys import organisation
from marketplace.members.tables import Organisation
from marketplace.settings import Settings
from marketplace.vouchers.service import fund, issue, programme
from marketplace.vouchers.tables import Grant

app = typer.Typer(help="Vouchers: public money for model calls.", no_args_is_help=True)
app.command("apply")(voucher_life.apply)
app.command("applications")(voucher_life.applied)
app.command("prepare")(voucher_life.prepare)
app.command("approve")(voucher_life.approve)
app.command("reject")(voucher_life.reject)
app.command("redeem")(voucher_life.redeem)
app.command("refund")(voucher_life.refund)
app.command("lapse")(voucher_life.lapse)
app.command("void")(voucher_life.void)
app.add_typer(adjustments.app, name="adjust")
app.add_typer(invoices.app, name="invoice")


@app.command("issue")
def issue_(
    org: Annotated[str, typer.Argument(help="the organisation's slug")],
    yuan: Annotated[str, typer.Argument(help="amount in yuan, such as 12.50")],
    code: Annotated[str, typer.Option("--programme", help="programme code")] = "starter",
    appropriate: Annotated[
        bool, typer.Option(help="book the funders' money first, as much as is issued")
    ] = False,
    tx: Annotated[
        str | None, typer.Option(help="id of this issue; the same id issues once")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Issue a voucher from a programme's pools by one hand: development only."""
    if Settings().environment == "production":
        raise Forbidden(
            "In production a voucher is issued by two persons.",
            rule="four_eyes",
            remedy="tokenmart voucher apply, then approve.",
        )
    amount_u = parse_yuan(yuan)
    tx = tx or new_id("iss")
    with Settings().database.session() as session:
        made = programme(session, code)
        org_id = organisation(session, org).id
        if appropriate:
            fund(session, f"fund:{tx}", made.id, amount_u, now_us())
        granted = issue(session, tx, made, org_id, amount_u, now_us())
        row = {"voucher": granted.id, "programme": code, "amount": format_yuan(granted.amount)}
    show([row], form)
    say("Gateways draw on it within half a second.")


@app.command("list")
def list_(org: str | None = None, form: FormatOption = Format.TABLE) -> None:
    """List vouchers with what is left of them."""
    from marketplace.gateway.endpoints import credits_of

    with Settings().database.reading() as session:
        query = select(Organisation)
        if org is not None:
            query = query.where(Organisation.slug == org)
        rows = []
        for organisation_ in session.exec(query):
            for voucher in credits_of(session, organisation_.id)["vouchers"]:
                grant = session.get_one(Grant, voucher["id"])
                rows.append(
                    {
                        "voucher": voucher["id"],
                        "organisation": organisation_.slug,
                        "programme": voucher["programme"],
                        "amount": _amount(grant.unit, voucher["amount"]),
                        "left": _amount(grant.unit, voucher["available"]),
                        "held": _amount(grant.unit, voucher["held"]),
                        "used": _amount(grant.unit, voucher["used"]),
                        "until": voucher["expires_at"][:10],
                    }
                )
    show(rows, form)


def _amount(unit: str, amount: int) -> str:
    return format_yuan(amount) if unit == CNY else f"{amount:,} {unit}"
