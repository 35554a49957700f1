"""`tokenmart voucher apply|approve|…` and `tokenmart code`: how a voucher is asked for and given back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlmodel import Session

from catalog.ground.clock import now_us
from catalog.ground.errors import BadRequest
from catalog.ground.ids import new_id
from catalog.ground.units import format_yuan, parse_yuan
from marketplace.cli.options import ByOption, day_end_us, day_of, evidence_of
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.ledger.chart import CNY
from marketplace.members import parties
from marketplace.members.organisations import organisation
from marketplace.members.tables import Organisation
from marketplace.settings import Settings
from marketplace.vouchers import applications, codes, refunds, returning
from marketplace.vouchers.applications import Wish
from marketplace.vouchers.codes import CodeTerms
from marketplace.vouchers.programmes import open_programme
from marketplace.vouchers.tables import Application, Grant, Programme, RefundLeg

code_app = typer.Typer(help="Redemption codes (兑换码).", no_args_is_help=True)

Org = Annotated[str, typer.Argument(help="the organisation's slug")]
Wanted = Annotated[str, typer.Argument(metavar="APPLICATION", help="the application's id")]
Yuan = Annotated[str | None, typer.Option("--yuan", help="less than was asked for")]
Why = Annotated[str, typer.Option("--reason", help="why")]
TxOption = Annotated[
    str | None, typer.Option("--tx", help="id of this act; the same id is done once")
]


def apply(
    org: Org,
    programme: Annotated[str, typer.Argument(help="programme code")],
    yuan: Annotated[str, typer.Argument(help="amount in yuan")],
    by: ByOption,
    contract: Annotated[str, typer.Option(help="reference of the contract")] = "",
    provider: Annotated[
        str, typer.Option(help="its other party: a slug, or uscc:… for one that is none here")
    ] = "",
    fact: Annotated[
        list[str] | None, typer.Option(help="contract.<name>=<json>, declared (repeat)")
    ] = None,
    evidence: Annotated[
        list[str] | None, typer.Option(help="<kind>=<file>: its hash is kept (repeat)")
    ] = None,
    tx: TxOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Apply for a voucher. What the programme refuses is refused now, by rule and clause."""
    facts = dict(map(_fact, fact or []))
    papers = []
    for kind, _, name in (item.partition("=") for item in evidence or []):
        sha256, told = evidence_of(Path(name))
        papers.append({"kind": kind, "name": told, "sha256": sha256})
    with Settings().database.session() as session:
        other = parties.party(session, provider) if provider else ""
        wish = Wish(parse_yuan(yuan), contract, facts, papers, provider=other)
        made = open_programme(session, programme)
        org_id = organisation(session, org).id
        row = applications.apply(session, tx or new_id("app"), made, org_id, wish, by, now_us())
        show([_application(session, row)], form)
    say("Two other persons look at it: tokenmart voucher prepare, then approve.")


def applied(
    state: Annotated[str | None, typer.Option(help="applied, prepared, approved, rejected")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List applications."""
    from sqlmodel import select

    with Settings().database.reading() as session:
        query = select(Application).order_by(Application.id)
        rows = session.exec(query if state is None else query.where(Application.state == state))
        show([_application(session, row) for row in rows], form)


def prepare(
    application: Wanted, by: ByOption, yuan: Yuan = None, form: FormatOption = Format.TABLE
) -> None:
    """Propose an amount for another officer to approve."""
    with Settings().database.session() as session:
        row = applications.application(session, application)
        amount_u = row.requested_u if yuan is None else parse_yuan(yuan)
        row = applications.prepare(session, application, amount_u, by)
        show([_application(session, row)], form)


def approve(
    application: Wanted, by: ByOption, yuan: Yuan = None, form: FormatOption = Format.TABLE
) -> None:
    """Grant it, as far as caps and pools reach. Not by who applied or prepared it."""
    amount_u = None if yuan is None else parse_yuan(yuan)
    with Settings().database.session() as session:
        grants = applications.approve(session, application, by, now_us(), amount_u)
        show([_grant(session, grant) for grant in grants], form)
    say("Gateways draw on it within half a second.")


def reject(application: Wanted, reason: Why, by: ByOption) -> None:
    """Say no, with the reason."""
    with Settings().database.session() as session:
        row = applications.reject(session, application, by, reason, now_us())
        say(f"{row.id} is {row.state}")


def redeem(
    org: Org,
    code: Annotated[str, typer.Argument(help="the code")],
    by: ByOption,
    tx: TxOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Turn a code into a voucher."""
    with Settings().database.session() as session:
        org_id = organisation(session, org).id
        grant = codes.redeem(session, tx or new_id("rdm"), code, org_id, by, now_us())
        show([_grant(session, grant)], form)


def refund(
    event: Annotated[str, typer.Argument(metavar="GENERATION", help="the call's id")],
    yuan: Annotated[str, typer.Argument(help="amount in yuan")],
    reason: Why,
    by: ByOption,
    tx: TxOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Give part of a call back: the caller's own money first, then to its vouchers; never as cash."""
    with Settings().database.session() as session:
        row = refunds.refund(
            session, tx or new_id("rfd"), event, parse_yuan(yuan), reason, by, now_us()
        )
        legs = refunds.legs_returned(session, [row.id])
        told = [{"to": leg.grant_id or "wallet", "amount": _returned(session, leg)} for leg in legs]
    show(told, form)


def lapse(form: FormatOption = Format.TABLE) -> None:
    """Return what expired vouchers still hold to their funders."""
    count = 0
    while True:
        with Settings().database.session() as session:
            done = returning.lapse(session, now_us())
        if not done:
            break
        count += done
    show([{"lapsed": count}], form)


def void(
    grant: Annotated[str, typer.Argument(metavar="VOUCHER", help="the voucher's id")],
    reason: Why,
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Take a voucher away; its rest goes back to the funders."""
    with Settings().database.session() as session:
        show([_grant(session, returning.void(session, grant, f"{by}: {reason}", now_us()))], form)


@code_app.command("create")
def create(
    programme: Annotated[str, typer.Argument(help="programme code")],
    yuan: Annotated[str, typer.Argument(help="what each use gives, in yuan")],
    until: Annotated[str, typer.Option(help="last day, such as 2026-12-31")],
    by: ByOption,
    uses: Annotated[int, typer.Option(min=1, help="how often in all")] = 1,
    per_org: Annotated[int, typer.Option(min=1, help="how often for one organisation")] = 1,
    grant_days: Annotated[
        int | None, typer.Option(min=1, help="how many days the voucher lives")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make a code. It is printed once; only its hash is kept."""
    terms = CodeTerms(parse_yuan(yuan), uses, day_end_us(until) or 0, per_org, grant_days)
    with Settings().database.session() as session:
        made = open_programme(session, programme)
        row, secret = codes.create_code(session, new_id("vcd"), made, terms, by, now_us())
        show([{"id": row.id, "code": secret}], form)
    say("Keep the code: it is shown only now.")


@code_app.command("list")
def list_codes(form: FormatOption = Format.TABLE) -> None:
    """List codes."""
    with Settings().database.reading() as session:
        rows = [
            {
                "id": row.id,
                "starts_with": row.prefix,
                "gives": format_yuan(row.amount_u),
                "used": f"{row.uses}/{row.uses_max}",
                "until": day_of(row.expires_at_us - 1),
                "state": "revoked" if row.revoked_at_us else "open",
            }
            for row in codes.codes(session)
        ]
    show(rows, form)


@code_app.command("revoke")
def revoke(code: Annotated[str, typer.Argument(help="the code's id")]) -> None:
    """Let nobody redeem it any more."""
    with Settings().database.session() as session:
        say(f"revoked {codes.revoke_code(session, code, now_us()).id}")


def _returned(session: Session, leg: RefundLeg) -> str:
    unit = session.get_one(Grant, leg.grant_id).unit if leg.grant_id else CNY
    return format_yuan(leg.amount_u - leg.due_u) if unit == CNY else f"{leg.amount_u:,} {unit}"


def _fact(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        raise BadRequest(
            f"{value!r} is not JSON.",
            rule="application.facts",
            param=key,
            remedy="""Write text and dates in quotes: 'contract.signed_on="2026-01-31"'.""",
        ) from None


def _application(session: Session, row: Application) -> dict[str, Any]:
    made = session.get_one(Programme, row.programme_id)
    return {
        "application": row.id,
        "organisation": session.get_one(Organisation, row.org_id).slug,
        "programme": f"{made.code}@{made.version}",
        "asked": format_yuan(row.requested_u),
        "proposed": None if row.proposed_u is None else format_yuan(row.proposed_u),
        "approved": None if row.approved_u is None else format_yuan(row.approved_u),
        "state": row.state,
        "contract": row.contract_ref,
    }


def _grant(session: Session, grant: Grant) -> dict[str, Any]:
    made = session.get_one(Programme, grant.programme_id)
    return {
        "voucher": grant.id,
        "organisation": session.get_one(Organisation, grant.org_id).slug,
        "programme": f"{made.code}@{made.version}",
        "amount": format_yuan(grant.amount),
        "state": grant.state,
        "until": day_of(min(grant.expires_at_us, 253_370_764_800_000_000) - 1),
    }
