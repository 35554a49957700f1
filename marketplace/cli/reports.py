"""`tokenmart report`: what people are shown and sign for, in the terminal or as files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.ground.clock import now_us
from catalog.ground.units import parse_yuan
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.members.organisations import organisation
from marketplace.settings import Settings

if TYPE_CHECKING:
    from marketplace.reports.sheets import Report

app = typer.Typer(help="Reports: claims, budgets, statements, audits.", no_args_is_help=True)

OutOption = Annotated[
    Path | None, typer.Option(help="write .xlsx, .json and .csv files into this folder")
]
OrgArgument = Annotated[str, typer.Argument(help="the organisation's slug")]
MonthArgument = Annotated[str, typer.Argument(help="a month in Beijing, such as 2026-11")]


@app.command("claim-pack")
def claim_pack(
    claim: Annotated[str, typer.Argument(help="the claim's id")],
    out: OutOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """What one funder is asked to pay, line by line, with control sums and chain heads."""
    from marketplace.reports.claim_pack import claim_pack as build

    with Settings().database.reading() as session:
        _give(build(session, claim, now_us()), form, out, f"claim-{claim}")


@app.command("burn")
def burn(
    programme: Annotated[str | None, typer.Option(help="one programme's code")] = None,
    days: Annotated[int, typer.Option(min=1, help="the pace is the mean of so many days")] = 30,
    out: OutOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Where each funder's money is, and when it will be gone at the present pace."""
    from marketplace.reports.burn import burn as build

    with Settings().database.reading() as session:
        _give(build(session, now_us(), days, programme), form, out, "burn")


@app.command("statement")
def statement(
    org: OrgArgument, month: MonthArgument, out: OutOption = None, form: FormatOption = Format.TABLE
) -> None:
    """An organisation's month: opening, use, vouchers by funder, closing, what will expire."""
    from marketplace.reports.statement import statement as build

    with Settings().database.reading() as session:
        report = build(session, organisation(session, org), month, now_us())
        _give(report, form, out, f"statement-{org}-{month}")


@app.command("owner")
def owner(
    org: OrgArgument, month: MonthArgument, out: OutOption = None, form: FormatOption = Format.TABLE
) -> None:
    """A listing owner's month: gross, fee, net, and what waits for funders."""
    from marketplace.reports.owner import owner_statement

    with Settings().database.reading() as session:
        report = owner_statement(session, organisation(session, org), month, now_us())
        _give(report, form, out, f"owner-{org}-{month}")


@app.command("audit")
def audit(
    claim: Annotated[str, typer.Argument(help="the claim's id")],
    seed: Annotated[str, typer.Option(help="draws the sample; the same seed, the same lines")],
    sample_bp: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="share of lines, in 1/100 %")
    ] = None,
    line: Annotated[int | None, typer.Option(help="everything behind one line, as JSON")] = None,
    out: OutOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """A reproducible sample of a claim's lines, each proved down to the hash of its call."""
    from marketplace.reports.audit import auditor_view, drill

    with Settings().database.reading() as session:
        if line is not None:
            json.dump(drill(session, claim, line), sys.stdout, ensure_ascii=False, indent=2)
            print()
            return
        report = auditor_view(session, claim, seed, sample_bp=sample_bp)
        _give(report, form, out, f"audit-{claim}")


@app.command("anomalies")
def anomalies(
    month: MonthArgument,
    concentration_bp: Annotated[int, typer.Option(help="share that is flagged")] = 5_000,
    repeats: Annotated[int, typer.Option(help="equal requests that are flagged")] = 20,
    least: Annotated[str, typer.Option(help="yuan below which shares say nothing")] = "100",
    out: OutOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Patterns that honest use rarely makes; a flag is a question and no verdict."""
    from marketplace.reports.anomalies import Limits
    from marketplace.reports.anomalies import anomalies as build
    from marketplace.reports.sources import month as period_of

    limits = Limits(concentration_bp=concentration_bp, repeats=repeats, least_u=parse_yuan(least))
    with Settings().database.reading() as session:
        report = build(session, period_of(month), now_us(), limits)
        _give(report, form, out, f"anomalies-{month}")


@app.command("focus")
def focus(
    org: OrgArgument, month: MonthArgument, out: OutOption = None, form: FormatOption = Format.TABLE
) -> None:
    """Usage and credits as FOCUS 1.2 rows, for FinOps tools."""
    from marketplace.reports.focus import focus as build
    from marketplace.reports.sources import month as period_of

    with Settings().database.reading() as session:
        report = build(session, organisation(session, org), period_of(month), now_us())
        _give(report, form, out, f"focus-{org}-{month}")


def _give(report: Report, form: Format, out: Path | None, name: str) -> None:
    """Print the report, or write it as files. Exit 1 when its sums are not the ledger's."""
    if out is not None:
        from marketplace.reports.sheets import write

        files = write(report, out, name)
        show([{"file": str(out / file), "sha256": sha256} for file, sha256 in files.items()], form)
    elif form == Format.JSON:
        print(report.json().decode())
    else:
        show([{"": key, report.title: value} for key, value in report.cover.items()], form)
        for sheet in report.sheets:
            say(f"\n{sheet.name.replace('_', ' ')}")
            show(sheet.rows, form)
    if not all(report.cover.get(check, True) for check in ("sums_agree", "all_agree")):
        say("The sums are not the ledger's: run tokenmart ledger verify, and look.")
        raise typer.Exit(1)
