"""`tokenmart programme`: publish programmes, let funders put money in, close them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.ground.clock import now_us
from catalog.ground.errors import BadRequest
from catalog.ground.ids import new_id
from catalog.ground.units import format_yuan, parse_yuan
from marketplace.cli.options import ByOption
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.settings import Settings
from marketplace.vouchers import funders, programmes
from marketplace.vouchers.pools import appropriate, funder
from marketplace.vouchers.pools import fund as fund_by_shares

app = typer.Typer(help="Programmes: rules and budgets of vouchers.", no_args_is_help=True)

Code = Annotated[str, typer.Argument(help="a programme's code, or code@version")]
TxOption = Annotated[
    str | None, typer.Option("--tx", help="id of this act; the same id is done once")
]


@app.command("publish")
def publish(
    file: Annotated[Path, typer.Argument(help="a programme as JSON", exists=True)],
    by: ByOption,
    draft: Annotated[bool, typer.Option(help="keep it as a draft")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Publish a programme version. Its bytes never change afterwards."""
    make = programmes.draft if draft else programmes.publish
    with Settings().database.session() as session:
        made = make(session, file.read_bytes(), by, now_us())
        show([_row(programmes.describe(session, made), form)], form)


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="draft, published or closed")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List programmes."""
    with Settings().database.reading() as session:
        found = programmes.programmes(session, state)
        show([_row(programmes.describe(session, made), form) for made in found], form)


@app.command("show")
def show_(code: Code, form: FormatOption = Format.TABLE) -> None:
    """Show a programme's funders and what they have left."""
    with Settings().database.reading() as session:
        told = programmes.describe(session, programmes.programme(session, code))
    if form == Format.JSON:
        show([told], form)
        return
    say(f"{told['programme']} {told['title_zh']} ({told['mode']}, {told['state']})")
    rows = [
        {
            "funder": part["funder"],
            "share": f"{part['share_bp'] / 100:g} %",
            "appropriated": format_yuan(part["appropriated_u"]),
            "not_yet_granted": format_yuan(part["pool_u"]),
        }
        for part in told["funders"]
    ]
    show(rows, form)


@app.command("fund")
def fund(
    code: Code,
    yuan: Annotated[str, typer.Argument(help="amount in yuan")],
    by: ByOption,
    of: Annotated[
        str | None, typer.Option("--funder", help="one funder; otherwise all, by their shares")
    ] = None,
    document: Annotated[str, typer.Option(help="the letter that appropriates it")] = "",
    tx: TxOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Book what funders appropriate."""
    amount_u, tx, at_us = parse_yuan(yuan), tx or new_id("fnd"), now_us()
    if not amount_u:
        raise BadRequest("Appropriate more than 0.", rule="fund.amount")
    with Settings().database.session() as session:
        made = programmes.open_programme(session, code)
        if of is None:
            fund_by_shares(session, tx, made.id, amount_u, at_us, by=by, document=document)
        else:
            amounts = {funder(session, of).id: amount_u}
            appropriate(session, tx, made.id, amounts, at_us, by=by, document=document)
        show([_row(programmes.describe(session, made), form)], form)


@app.command("payer")
def payer(
    code: Annotated[str, typer.Argument(help="the funder's code, such as sz")],
    org: Annotated[str, typer.Argument(help="the organisation of its office, '' for none")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Let an organisation's members act for a funder: see its claims, refuse and settle them."""
    with Settings().database.session() as session:
        funders.assign(session, code, org)
        told = funders.funders(session, funders.Scope(everything=True))
    rows = [
        {
            "funder": row["funder"],
            "level": row["level"],
            "organisation": row["organisation"],
            "programmes": ", ".join(made["programme"] for made in row["programmes"]),
        }
        for row in told
        if row["funder"] == code
    ]
    show(rows, form)


@app.command("close")
def close(code: Code, form: FormatOption = Format.TABLE) -> None:
    """Issue nothing more under a programme version; what was issued lives on."""
    with Settings().database.session() as session:
        made = programmes.close(session, programmes.programme(session, code))
        show([_row(programmes.describe(session, made), form)], form)


def _row(told: dict[str, Any], form: Format) -> dict[str, Any]:
    if form == Format.JSON:
        return told
    return {
        "programme": told["programme"],
        "title": told["title_zh"],
        "state": told["state"],
        "mode": told["mode"],
        "appropriated": format_yuan(sum(part["appropriated_u"] for part in told["funders"])),
        "not_yet_granted": format_yuan(sum(part["pool_u"] for part in told["funders"])),
        "funders": ", ".join(part["funder"] for part in told["funders"]),
    }
