"""`tokenmart member` and `tokenmart project`: who acts for an organisation, and its budgets' names."""

from __future__ import annotations

from typing import Annotated

import typer

from catalog.ground.clock import now_us
from marketplace.cli.options import ByOption, day_of
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.members import people, projects
from marketplace.members.organisations import organisation
from marketplace.members.tables import Membership
from marketplace.settings import Settings

app = typer.Typer(help="Members: who acts for an organisation.", no_args_is_help=True)
project_app = typer.Typer(help="Projects: what keys and spending are sorted by.")

Org = Annotated[str, typer.Argument(help="the organisation's slug")]
Member = Annotated[str, typer.Argument(help="a name or an address")]
RoleOption = Annotated[str, typer.Option(help=", ".join(people.ROLES))]


@app.command("add")
def add(
    org: Org,
    member: Member,
    by: ByOption,
    role: RoleOption = "dev",
    form: FormatOption = Format.TABLE,
) -> None:
    """Let somebody act for an organisation."""
    with Settings().database.session() as session:
        org_id = organisation(session, org).id
        show([_row(people.add_member(session, org_id, member, role, by, now_us()))], form)


@app.command("list")
def list_(org: Org, form: FormatOption = Format.TABLE) -> None:
    """List an organisation's members."""
    with Settings().database.reading() as session:
        found = people.members_of(session, organisation(session, org).id)
        show([_row(member) for member in found], form)


@app.command("role")
def role(
    org: Org,
    member: Member,
    new: Annotated[str, typer.Argument(metavar="ROLE", help=", ".join(people.ROLES))],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Give a member another role; keys of a member who may no longer call then only read."""
    with Settings().database.session() as session:
        org_id = organisation(session, org).id
        show([_row(people.change_role(session, org_id, member, new, by, now_us()))], form)


@app.command("remove")
def remove(org: Org, member: Member, by: ByOption) -> None:
    """End a membership; the member's keys are revoked with it."""
    with Settings().database.session() as session:
        org_id = organisation(session, org).id
        keys = people.remove_member(session, org_id, member, by, now_us())
    say(f"removed {member}; {keys} keys revoked")


@project_app.command("create")
def create_project(org: Org, name: str, form: FormatOption = Format.TABLE) -> None:
    """Add a project."""
    with Settings().database.session() as session:
        made = projects.create_project(session, organisation(session, org).id, name, now_us())
        show([{"id": made.id, "name": made.name}], form)


@project_app.command("list")
def list_projects(org: Org, form: FormatOption = Format.TABLE) -> None:
    """List an organisation's projects."""
    with Settings().database.reading() as session:
        found = projects.projects(session, organisation(session, org).id)
        rows = [{"id": p.id, "name": p.name, "since": day_of(p.created_at_us)} for p in found]
    show(rows, form)


def _row(member: Membership) -> dict[str, object]:
    return {
        "member": member.member,
        "role": member.role,
        "since": day_of(member.added_at_us),
        "added_by": member.added_by,
    }
