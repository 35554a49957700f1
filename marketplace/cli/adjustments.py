"""`tokenmart voucher adjust`: corrections of the ledger that one person proposes and another books."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlmodel import Session

from catalog.ground.clock import now_us
from catalog.ground.errors import NotFound
from catalog.ground.ids import new_id
from catalog.ground.units import format_yuan, parse_yuan
from marketplace.cli.options import ByOption
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.members.organisations import organisation
from marketplace.settings import Settings
from marketplace.vouchers import adjustments
from marketplace.vouchers.tables import Adjustment

app = typer.Typer(
    help="Corrections by two persons: never from or to a voucher or a pool.", no_args_is_help=True
)

Account = typer.Argument(
    metavar="ACCOUNT", help="wallet:<org>, owner:<org>:unsettled or platform:<name>"
)


@app.command("propose")
def propose(
    from_account: Annotated[str, Account],
    to_account: Annotated[str, Account],
    yuan: Annotated[str, typer.Argument(help="amount in yuan, such as 12.50")],
    reason: Annotated[str, typer.Option(help="why, for the record")],
    by: ByOption,
    tx: Annotated[
        str | None, typer.Option("--tx", help="id of this act; the same id is done once")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Propose to move money from one account to another."""
    with Settings().database.session() as session:
        row = adjustments.propose(
            session,
            tx or new_id("adj"),
            _code(session, from_account),
            _code(session, to_account),
            parse_yuan(yuan),
            reason,
            by,
            now_us(),
        )
        show([_row(row)], form)
    say("Another person books it: tokenmart voucher adjust book.")


@app.command("book")
def book(
    adjustment: Annotated[str, typer.Argument(help="the adjustment's id")],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Book a proposed adjustment. Not by who proposed it."""
    with Settings().database.session() as session:
        show([_row(adjustments.book(session, adjustment, by, now_us()))], form)


@app.command("list")
def list_(form: FormatOption = Format.TABLE) -> None:
    """List adjustments, oldest first."""
    with Settings().database.reading() as session:
        show([_row(row) for row in adjustments.adjustments(session)], form)


def _code(session: Session, text: str) -> str:
    """Return an account's code, the organisation in it named by its slug or by its id."""
    kind, colon, rest = text.partition(":")
    who, more, part = rest.partition(":")
    if kind in ("wallet", "owner"):
        try:
            who = organisation(session, who).id
        except NotFound:
            return text
    return kind + colon + who + more + part


def _row(row: Adjustment) -> dict[str, Any]:
    return {
        "adjustment": row.id,
        "from": row.from_account,
        "to": row.to_account,
        "amount": format_yuan(row.amount_u),
        "state": row.state,
        "proposed_by": row.proposed_by,
        "approved_by": row.approved_by,
        "reason": row.reason,
    }
