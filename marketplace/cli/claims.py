"""`tokenmart claim`: from used vouchers to the funders' money."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sqlmodel import Session, col, select

from catalog.ground.clock import now_us
from catalog.ground.errors import BadRequest
from catalog.ground.ids import new_id
from catalog.ground.units import format_yuan
from marketplace.cli import payer
from marketplace.cli.options import ByOption, evidence_of
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.settings import Settings
from marketplace.vouchers import claims
from marketplace.vouchers.claim_rules import findings
from marketplace.vouchers.claims import Verdict
from marketplace.vouchers.periods import period
from marketplace.vouchers.pools import funder as funder_called
from marketplace.vouchers.programmes import programme as programme_called
from marketplace.vouchers.tables import Claim, Funder, Programme

app = typer.Typer(help="Claims on funders, line by line.", no_args_is_help=True)
app.add_typer(payer.app, name="payer")

ClaimId = Annotated[str, typer.Argument(metavar="CLAIM", help="the claim's id")]


@app.command("draft")
def draft(
    programme: Annotated[str, typer.Argument(help="programme code")],
    funder: Annotated[str, typer.Argument(help="funder code")],
    name: Annotated[str, typer.Argument(metavar="PERIOD", help="2026-01, 2026-Q1 or 2026")],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Collect what a funder owes up to the end of a period."""
    with Settings().database.session() as session:
        made, who = programme_called(session, programme), funder_called(session, funder)
        span = period(name)
        row = claims.draft(session, new_id("clm"), made, who.id, span, by, now_us())
        show([_row(session, row)], form)


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="draft, submitted, audited, settled")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List claims."""
    with Settings().database.reading() as session:
        query = select(Claim).order_by(col(Claim.id))
        rows = session.exec(query if state is None else query.where(Claim.state == state))
        show([_row(session, row) for row in rows], form)


@app.command("lines")
def lines(claim: ClaimId, form: FormatOption = Format.TABLE) -> None:
    """List a claim's lines."""
    with Settings().database.reading() as session:
        claims.claim(session, claim)
        rows = [
            {
                "line": line.n,
                "generation": line.event_id,
                "voucher": line.grant_id,
                "refund": line.refund_id,
                "amount": format_yuan(line.amount_u),
                "state": line.state,
                "reason": line.reason,
            }
            for line in claims.lines(session, claim)
        ]
    show(rows, form)


@app.command("findings")
def list_findings(claim: ClaimId, form: FormatOption = Format.TABLE) -> None:
    """List the lines that a rule refuses, whatever an auditor says."""
    with Settings().database.reading() as session:
        row = claims.claim(session, claim)
        found = findings(session, row, claims.lines(session, claim))
    rows = [
        {"line": n, "rule": r.rule, "clause": r.clause, "why": r.message}
        for n, r in sorted(found.items())
    ]
    show(rows, form)


@app.command("submit")
def submit(
    claim: ClaimId,
    by: ByOption,
    evidence: Annotated[
        list[str] | None, typer.Option(help="<kind>=<file>: its hash is kept (repeat)")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Hand a claim in with its evidence."""
    papers = []
    for kind, _, name in (item.partition("=") for item in evidence or []):
        sha256, told = evidence_of(Path(name))
        papers.append({"kind": kind, "name": told, "sha256": sha256})
    with Settings().database.session() as session:
        show([_row(session, claims.submit(session, claim, papers, by, now_us()))], form)


@app.command("audit")
def audit(
    claim: ClaimId,
    by: ByOption,
    allow: Annotated[list[int] | None, typer.Option(help="a line to allow (repeat)")] = None,
    disallow: Annotated[
        list[str] | None, typer.Option(help="<line>=<reason>, a line to refuse (repeat)")
    ] = None,
    rest: Annotated[bool, typer.Option(help="allow every other line and end the audit")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Record what the auditor says of lines. Not by who drafted or submitted the claim."""
    said = [Verdict(n, True) for n in allow or []]
    said += [_refusal(text) for text in disallow or []]
    with Settings().database.session() as session:
        row = claims.audit(session, claim, said, by, now_us(), rest=rest)
        show([_row(session, row)], form)


@app.command("settle")
def settle(
    claim: ClaimId,
    bank_ref: Annotated[str, typer.Argument(help="the bank's reference")],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Book that the funder has paid. Not by who drafted, submitted or audited the claim."""
    with Settings().database.session() as session:
        show([_row(session, claims.settle(session, claim, bank_ref, by, now_us()))], form)


@app.command("refuse")
def refuse(
    claim: ClaimId,
    reason: Annotated[str, typer.Option(help="why")],
    by: ByOption,
    line: Annotated[list[int] | None, typer.Option(help="one line only (repeat)")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Book that the funder will not pay what the audit has allowed, or some lines of it."""
    with Settings().database.session() as session:
        row = claims.refuse(session, claim, line or [], reason, by, now_us())
        show([_row(session, row)], form)


@app.command("withdraw")
def withdraw(claim: ClaimId, by: ByOption) -> None:
    """Take a claim back before it is audited."""
    with Settings().database.session() as session:
        say(f"{claim} is {claims.withdraw(session, claim, by, now_us()).state}")


@app.command("clawback")
def clawback(
    claim: ClaimId,
    line: Annotated[list[int], typer.Option(help="a line that the funder takes back (repeat)")],
    reason: Annotated[str, typer.Option(help="why")],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Book lines that a funder takes back after it has paid."""
    with Settings().database.session() as session:
        row = claims.clawback(session, claim, line, reason, by, now_us())
        show([_row(session, row)], form)


def _refusal(text: str) -> Verdict:
    number, _, reason = text.partition("=")
    if not number.isdigit():
        raise BadRequest(f"{text!r} is not <line>=<reason>.", rule="claim.line")
    return Verdict(int(number), False, reason)


def _row(session: Session, row: Claim) -> dict[str, Any]:
    made = session.get_one(Programme, row.programme_id)
    return {
        "claim": row.id,
        "programme": f"{made.code}@{made.version}",
        "funder": session.get_one(Funder, row.funder_id).code,
        "period": row.period,
        "lines": row.lines,
        "total": format_yuan(row.total_u),
        "allowed": format_yuan(row.allowed_u),
        "disallowed": format_yuan(row.disallowed_u),
        "state": row.state,
        "bank_ref": row.bank_ref,
    }
