"""`tokenmart org`: who calls, publishes and funds, and what is known of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from sqlmodel import Session, select

from catalog.ground.clock import now_us, to_iso
from catalog.ground.units import WHOLE_BP
from marketplace.cli.options import (
    ByOption,
    day_end_us,
    day_of,
    day_start_us,
    evidence_of,
    last_day_of,
)
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.members import facts, parties
from marketplace.members.organisations import (
    create_organisation,
    masked_uscc,
    organisation,
    resume_organisation,
    suspend_organisation,
    verify_organisation,
)
from marketplace.members.tables import Organisation, OrgFact, PartyLink
from marketplace.settings import Settings

app = typer.Typer(help="Organisations, what is known of them, and their relations.")
fact_app = typer.Typer(help="Dated facts with evidence; two persons make one.")
link_app = typer.Typer(help="Who belongs together with whom.")
app.add_typer(fact_app, name="fact")
app.add_typer(link_app, name="link")

Slug = Annotated[str, typer.Argument(help="the organisation's slug")]
FromOption = Annotated[
    str | None, typer.Option("--from", help="first day (Beijing), such as 2026-01-31")
]
ToOption = Annotated[str | None, typer.Option("--to", help="last day (Beijing)")]
EvidenceOption = Annotated[
    Path, typer.Option(exists=True, dir_okay=False, help="the document; its sha256 is kept")
]


@app.command("create")
def create(
    slug: Slug,
    name: Annotated[str, typer.Argument(help="its registered name")],
    uscc: Annotated[str | None, typer.Option(help="统一社会信用代码")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Add an organisation."""
    with Settings().database.session() as session:
        made = create_organisation(session, slug, name, now_us(), uscc)
        show([{"id": made.id, "slug": made.slug, "name": made.name}], form)


@app.command("list")
def list_(form: FormatOption = Format.TABLE) -> None:
    """List organisations; codes are masked."""
    with Settings().database.reading() as session:
        rows = [_org_row(org) for org in session.exec(select(Organisation))]
    show(rows, form)


@app.command("verify")
def verify(
    slug: Slug,
    uscc: Annotated[str, typer.Argument(help="统一社会信用代码, 18 characters")],
    by: ByOption,
    name: Annotated[str | None, typer.Option(help="the registered name, if it differs")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Record that you have compared the organisation with its entry in the register."""
    with Settings().database.session() as session:
        org = verify_organisation(session, slug, uscc, name, by, now_us())
        show([_org_row(org)], form)


@app.command("suspend")
def suspend(
    slug: Slug,
    reason: Annotated[str, typer.Option(help="why, for the record")],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Refuse an organisation's keys from now on; what it has stays as it is."""
    with Settings().database.session() as session:
        show([_org_row(suspend_organisation(session, slug, reason, by, now_us()))], form)
    say("Gateways refuse its keys within half a second.")


@app.command("resume")
def resume(
    slug: Slug,
    reason: Annotated[str, typer.Option(help="why, for the record")],
    by: ByOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Let a suspended organisation call again. Not by who suspended it."""
    with Settings().database.session() as session:
        show([_org_row(resume_organisation(session, slug, reason, by, now_us()))], form)


@fact_app.command("add")
def add_fact(
    org: Slug,
    key: Annotated[str, typer.Argument(help="such as org.is_opc or org.region")],
    value: Annotated[str, typer.Argument(help="true, 440305, 2026-12-31, idc,isp …")],
    evidence: EvidenceOption,
    by: ByOption,
    since: FromOption = None,
    until: ToOption = None,
    listing: Annotated[str, typer.Option(help="the listing it speaks of, by slug")] = "",
    form: FormatOption = Format.TABLE,
) -> None:
    """Enter a fact. It counts once a second person has verified it (`org fact verify`)."""
    from marketplace.vouchers.knowledge import kind_of_entry

    sha256, document = evidence_of(evidence)
    with Settings().database.session() as session:
        made = facts.enter_fact(
            session,
            organisation(session, org).id,
            key,
            facts.parse_value(kind_of_entry(key, listing), value),
            valid_from_us=day_start_us(since) or 0,
            valid_to_us=day_end_us(until),
            evidence_sha256=sha256,
            evidence_name=document,
            by=by,
            at_us=now_us(),
            listing=listing,
        )
        show([_fact_row(made)], form)


@fact_app.command("list")
def list_facts(org: Slug, form: FormatOption = Format.TABLE) -> None:
    """List what is on record about an organisation, with who entered and who verified it."""
    with Settings().database.reading() as session:
        found = facts.facts_for(session, organisation(session, org).id)
        show([_fact_row(fact) for fact in found], form)


@fact_app.command("verify")
def verify_fact(
    fact: Annotated[str, typer.Argument(help="the fact's id")],
    by: ByOption,
    evidence: Annotated[
        Path | None, typer.Option(exists=True, help="the document, to compare its sha256")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Let a fact count: you have seen its evidence, and you are not who entered it."""
    with Settings().database.session() as session:
        found = facts.verify_fact(session, fact, by, now_us())
        if evidence is not None and evidence_of(evidence)[0] != found.evidence_sha256:
            say(f"{evidence.name} is not the document that was entered; nothing was verified.")
            raise typer.Exit(1)
        show([_fact_row(found)], form)


@fact_app.command("end")
def end_fact(
    fact: Annotated[str, typer.Argument(help="the fact's id")], by: ByOption, until: ToOption = None
) -> None:
    """Let a fact hold no longer, from now on or after a day."""
    with Settings().database.session() as session:
        facts.end_fact(session, fact, day_end_us(until) or now_us(), by)
    say("ended")


@link_app.command("add")
def add_link(
    first: Annotated[str, typer.Argument(help="a slug, or uscc:… for a party that is none here")],
    second: Annotated[str, typer.Argument(help="likewise")],
    by: ByOption,
    kind: Annotated[
        str, typer.Option(help="shareholding, control, same_controller, family, declared")
    ] = "declared",
    holding_bp: Annotated[int, typer.Option(help="a shareholding's size in 1/100 %")] = WHOLE_BP,
    since: FromOption = None,
    until: ToOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Record that two parties belong together; public money stops flowing between them at once."""
    with Settings().database.session() as session:
        made = parties.add_link(
            session,
            parties.party(session, first),
            parties.party(session, second),
            kind,
            by=by,
            at_us=now_us(),
            valid_from_us=day_start_us(since) or 0,
            valid_to_us=day_end_us(until),
            holding_bp=holding_bp,
        )
        show([_link_row(session, made)], form)


@link_app.command("list")
def list_links(
    org: Annotated[str | None, typer.Option(help="one party")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List links between parties."""
    with Settings().database.reading() as session:
        named = None if org is None else parties.party(session, org)
        show([_link_row(session, link) for link in parties.links(session, named)], form)


def _org_row(org: Organisation) -> dict[str, object]:
    return {
        "slug": org.slug,
        "name": org.name,
        "uscc": masked_uscc(org),
        "verified": day_of(org.verified_at_us),
        "status": org.status,
        "since": to_iso(org.created_at_us)[:10],
        "id": org.id,
    }


def _fact_row(fact: OrgFact) -> dict[str, object]:
    return {
        "id": fact.id,
        "about": fact.listing or "itself",
        "key": fact.key,
        "value": json.loads(fact.value),
        "from": day_of(fact.valid_from_us or None),
        "to": last_day_of(fact.valid_to_us),
        "state": facts.state_at(fact, now_us()),
        "evidence": f"{fact.evidence_name} {fact.evidence_sha256[:12]}",
        "entered_by": fact.entered_by,
        "verified_by": fact.verified_by,
    }


def _link_row(session: Session, link: PartyLink) -> dict[str, object]:
    return {
        "id": link.id,
        "first": _party(session, link.first),
        "second": _party(session, link.second),
        "kind": link.kind,
        "holding_bp": link.holding_bp if link.kind == "shareholding" else None,
        "from": day_of(link.valid_from_us or None),
        "to": last_day_of(link.valid_to_us),
        "entered_by": link.entered_by,
    }


def _party(session: Session, party: str) -> str:
    org = session.get(Organisation, party)
    return org.slug if org else party
