"""`tokenmart key`: make, list and revoke keys."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlmodel import Session

from catalog.ground.clock import DAY_US, now_us, to_iso
from catalog.ground.units import format_yuan, parse_yuan
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.members.keys import create_key, list_keys, revoke_key
from marketplace.members.organisations import organisation
from marketplace.members.projects import project as find_project
from marketplace.members.tables import ApiKey, Organisation
from marketplace.settings import Settings

app = typer.Typer(help="Keys: what a caller signs in with.", no_args_is_help=True)


@app.command("create")
def create(
    org: Annotated[str, typer.Argument(help="the organisation's slug")],
    name: Annotated[str, typer.Option(help="what the key is for")] = "key",
    listing: Annotated[list[str] | None, typer.Option(help="only these models (repeat)")] = None,
    member: Annotated[str, typer.Option(help="whose key it is; its role decides")] = "",
    project: Annotated[str | None, typer.Option(help="what its spending counts for")] = None,
    daily: Annotated[str | None, typer.Option(help="yuan it may spend a Beijing day")] = None,
    monthly: Annotated[str | None, typer.Option(help="yuan it may spend a Beijing month")] = None,
    cidr: Annotated[list[str] | None, typer.Option(help="only from this network (repeat)")] = None,
    rpm: Annotated[int | None, typer.Option(min=1, help="requests per minute")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="tokens per minute")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="calls at once")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="expires after so many days")] = None,
    operator: Annotated[bool, typer.Option(help="may operate the marketplace")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Make a key. Its secret is printed once; only its hash is kept."""
    at_us = now_us()
    with Settings().database.session() as session:
        org_id = organisation(session, org).id
        key, secret = create_key(
            session,
            org_id,
            name,
            at_us,
            operator=operator,
            member=member,
            project_id="" if project is None else find_project(session, org_id, project).id,
            listings=listing,
            cidrs=cidr or (),
            daily_u=None if daily is None else parse_yuan(daily),
            monthly_u=None if monthly is None else parse_yuan(monthly),
            rpm=rpm,
            tpm=tpm,
            concurrency=concurrency,
            expires_at_us=None if days is None else at_us + days * DAY_US,
        )
        show([{"id": key.id, "key": secret}], form)
    say("Keep the key: it is shown only now.")


@app.command("list")
def list_(org: str | None = None, form: FormatOption = Format.TABLE) -> None:
    """List keys, newest first."""
    with Settings().database.reading() as session:
        org_id = None if org is None else organisation(session, org).id
        rows = [_row(session, key) for key in list_keys(session, org_id)]
    show(rows, form)


@app.command("revoke")
def revoke(key: Annotated[str, typer.Argument(help="id or shown prefix")]) -> None:
    """Revoke a key. Gateways refuse it within half a second."""
    with Settings().database.session() as session:
        say(f"revoked {revoke_key(session, key, now_us()).id}")


def _row(session: Session, key: ApiKey) -> dict[str, object]:
    state = "revoked" if key.revoked_at_us else "active"
    if key.expires_at_us is not None and key.expires_at_us <= now_us():
        state = "expired"
    return {
        "id": key.id,
        "organisation": session.get_one(Organisation, key.org_id).slug,
        "name": key.name,
        "member": key.member,
        "daily": _yuan(key.daily_u),
        "monthly": _yuan(key.monthly_u),
        "prefix": key.prefix + "…",
        "state": state,
        "created": to_iso(key.created_at_us),
    }


def _yuan(amount_u: int | None) -> str:
    return "" if amount_u is None else format_yuan(amount_u)
