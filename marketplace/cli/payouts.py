"""`tokenmart payout`: what listing owners earn, and how it is paid out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlmodel import Session, select

from catalog.ground.clock import now_us
from catalog.ground.errors import BadRequest
from catalog.ground.ids import new_id
from catalog.ground.units import format_yuan, parse_yuan
from marketplace.cli.options import ByOption
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.members.organisations import organisation
from marketplace.members.tables import Organisation
from marketplace.payouts import accruals, files, holds, service
from marketplace.payouts import statements as monthly
from marketplace.payouts.fees import listing_scope, owner_scope, publish_fee
from marketplace.payouts.tables import FeeVersion, Payout
from marketplace.settings import Settings

app = typer.Typer(help="Payouts: revenue share, statements, payment files.", no_args_is_help=True)

Org = Annotated[str, typer.Argument(help="the organisation's slug")]
PayoutId = Annotated[str, typer.Argument(metavar="PAYOUT", help="the payout's id")]
Why = Annotated[str, typer.Option("--reason", help="why")]


@app.command("fee")
def fee(
    percent: Annotated[str, typer.Argument(help="such as 12.5")],
    reason: Why,
    by: ByOption,
    org: Annotated[str | None, typer.Option(help="for one owner only")] = None,
    listing: Annotated[str | None, typer.Option(help="for one listing only")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Publish the platform's fee from now on."""
    at_us = now_us()
    with Settings().database.session() as session:
        scope = listing_scope(listing) if listing else ""
        scope = owner_scope(organisation(session, org).id) if org else scope
        # A per cent has 100 basis points, a yuan a million micro-yuan.
        fee_bp, rest = divmod(parse_yuan(percent), 10_000)
        if rest:
            raise BadRequest(
                f"{percent} per cent is no whole number of basis points.",
                rule="fee.bp",
                remedy="Give at most two decimals.",
            )
        row = publish_fee(session, scope, fee_bp, at_us, by, reason, at_us)
        show([{"fee": row.id, "scope": row.scope or "everybody", "fee_bp": row.fee_bp}], form)
    say("Gateways book it within half a second.")


@app.command("fees")
def fees(form: FormatOption = Format.TABLE) -> None:
    """List the fee versions."""
    with Settings().database.reading() as session:
        rows = [row.model_dump() for row in session.exec(select(FeeVersion))]
    show(rows, form)


@app.command("accrue")
def accrue(form: FormatOption = Format.TABLE) -> None:
    """Add up finished days, settled claims and what was taken back. Running it again adds nothing."""
    with Settings().database.session() as session:
        show([{"accruals": accruals.accrue(session, now_us())}], form)


@app.command("mature")
def mature(form: FormatOption = Format.TABLE) -> None:
    """Make what is due available to its owners."""
    with Settings().database.session() as session:
        done = accruals.mature(session, now_us())
        rows = [
            {
                "organisation": session.get_one(Organisation, org_id).slug,
                "matured": format_yuan(u),
            }
            for org_id, u in done.items()
        ]
    show(rows, form)


@app.command("statement")
def statement(
    org: Org, period: Annotated[str, typer.Argument(help="a month, such as 2026-01")]
) -> None:
    """Print an organisation's month as JSON; it is made and kept when it is first asked for."""
    with Settings().database.session() as session:
        row = monthly.statement(session, organisation(session, org).id, period, now_us())
        json.dump(json.loads(row.body), sys.stdout, ensure_ascii=False, indent=2)
        print()
    say(f"sha256 {row.sha256}")


@app.command("prepare")
def prepare(
    org: Org,
    by: ByOption,
    yuan: Annotated[str | None, typer.Option(help="less than all that is available")] = None,
    tx: Annotated[str | None, typer.Option(help="id of this payout")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Set aside what is available to an organisation."""
    amount_u = None if yuan is None else parse_yuan(yuan)
    with Settings().database.session() as session:
        org_id = organisation(session, org).id
        row = service.prepare(session, tx or new_id("pay"), org_id, by, now_us(), amount_u=amount_u)
        show([_row(session, row)], form)


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="prepared, approved, exported, paid…")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List payouts."""
    with Settings().database.reading() as session:
        show([_row(session, row) for row in service.payouts(session, state=state)], form)


@app.command("approve")
def approve(payout: PayoutId, by: ByOption, form: FormatOption = Format.TABLE) -> None:
    """Let it be paid. Not by who prepared it."""
    with Settings().database.session() as session:
        show([_row(session, service.approve(session, payout, by, now_us()))], form)


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="where the files go", file_okay=False)],
    by: ByOption,
    file: Annotated[str | None, typer.Option("--tx", help="id; the same id, the same file")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Write every approved payout into a payment file: CSV for a bank, JSON with control sums."""
    folder.mkdir(parents=True, exist_ok=True)
    with Settings().database.session() as session:
        row = files.export(session, file or new_id("pfl"), by, now_us())
        table, told = files.as_csv(session, row.id), files.as_json(session, row.id)
    paths = [folder / f"{row.id}.csv", folder / f"{row.id}.json"]
    paths[0].write_bytes(table)
    paths[1].write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    total = format_yuan(row.total_u)
    show([{"file": row.id, "payouts": row.count, "total": total, "sha256": row.sha256}], form)
    say(f"wrote {paths[0]} and {paths[1].name}")


@app.command("paid")
def paid(
    payout: PayoutId,
    bank_ref: Annotated[str, typer.Argument(help="the bank's reference")],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Note that the bank has executed it."""
    with Settings().database.session() as session:
        show([_row(session, service.paid(session, payout, bank_ref, by, now_us()))], form)


@app.command("reverse")
def reverse(payout: PayoutId, reason: Why, by: ByOption, form: FormatOption = Format.TABLE) -> None:
    """Take it back; the money is available again."""
    with Settings().database.session() as session:
        show([_row(session, service.reverse(session, payout, reason, by, now_us()))], form)


@app.command("hold")
def hold(org: Org, reason: Why, by: ByOption) -> None:
    """Let nothing mature or be approved while something is under review."""
    with Settings().database.session() as session:
        org_id = organisation(session, org).id
        say(f"held: {holds.hold(session, new_id('phd'), org_id, reason, by, now_us()).id}")


@app.command("release")
def release(hold: Annotated[str, typer.Argument(help="the hold's id")], by: ByOption) -> None:
    """End a hold. Not by who made it."""
    with Settings().database.session() as session:
        say(f"released {holds.release(session, hold, by, now_us()).id}")


def _row(session: Session, row: Payout) -> dict[str, Any]:
    return {
        "payout": row.id,
        "organisation": session.get_one(Organisation, row.org_id).slug,
        "amount": format_yuan(row.amount_u),
        "state": row.state,
        "prepared_by": row.prepared_by,
        "approved_by": row.approved_by,
        "bank_ref": row.bank_ref,
    }
