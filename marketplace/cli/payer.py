"""`tokenmart claim payer`: what a funder's own members do with the claims on it, over the API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.ground.errors import BadRequest
from catalog.ground.units import format_yuan
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.cli.remote import HERE, KeyOption, Remote, UrlOption

app = typer.Typer(
    help="As a funder: your programmes, the claims on you, and your payments.",
    no_args_is_help=True,
)

ClaimId = Annotated[str, typer.Argument(metavar="CLAIM", help="the claim's id")]
TxOption = Annotated[
    str | None, typer.Option("--tx", help="id of this act; the same id is done once")
]


@app.command("programmes")
def programmes(key: KeyOption, url: UrlOption = HERE, form: FormatOption = Format.TABLE) -> None:
    """List the programmes that you fund, with what is left of your money."""
    rows = [
        {
            "funder": funder["funder"],
            "programme": made["programme"],
            "state": made["state"],
            "share": f"{made['share_bp'] / 100:g} %",
            "appropriated": format_yuan(made["appropriated_u"]),
            "not_yet_granted": format_yuan(made["pool_u"]),
            "claims": ", ".join(f"{s} {format_yuan(u)}" for s, u in made["claims_u"].items()),
        }
        for funder in Remote(url, key).get("/funders")["data"]
        for made in funder["programmes"]
    ]
    show(rows, form)


@app.command("list")
def list_(
    key: KeyOption,
    state: Annotated[str | None, typer.Option(help="draft, submitted, audited, settled…")] = None,
    url: UrlOption = HERE,
    form: FormatOption = Format.TABLE,
) -> None:
    """List the claims on you."""
    show([_row(row) for row in Remote(url, key).pages("/claims", state=state)], form)


@app.command("lines")
def lines(
    claim: ClaimId, key: KeyOption, url: UrlOption = HERE, form: FormatOption = Format.TABLE
) -> None:
    """List a claim's lines, and which of them a rule refuses."""
    remote = Remote(url, key)
    found = {r["n"]: r["rule"] for r in remote.get(f"/claims/{claim}/findings")["data"]}
    rows = [
        {
            "line": line["n"],
            "generation": line["event_id"],
            "voucher": line["grant_id"],
            "amount": format_yuan(line["amount_u"]),
            "state": line["state"],
            "refused_by": found.get(line["n"], ""),
            "reason": line["reason"],
        }
        for line in remote.pages(f"/claims/{claim}/lines", limit=1000)
    ]
    show(rows, form)


@app.command("pack")
def pack(
    claim: ClaimId,
    out: Annotated[Path, typer.Argument(help="file to write: .xlsx, .json or .csv")],
    key: KeyOption,
    url: UrlOption = HERE,
) -> None:
    """Download a claim's pack: every line with its hashes, control sums and chain heads."""
    kind = out.suffix.removeprefix(".")
    if kind not in ("xlsx", "json", "csv"):
        raise BadRequest(f"{out.name!r} is no .xlsx, .json or .csv file.", rule="pack.form")
    content = Remote(url, key).read(f"/claims/{claim}/pack", form=kind)
    out.write_bytes(content)
    say(f"wrote {out} ({len(content):,} bytes)")


@app.command("audit")
def audit(
    claim: ClaimId,
    key: KeyOption,
    disallow: Annotated[
        list[str] | None, typer.Option(help="<line>=<reason>, a line to refuse (repeat)")
    ] = None,
    rest: Annotated[bool, typer.Option(help="allow every other line and end the audit")] = False,
    tx: TxOption = None,
    url: UrlOption = HERE,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say what you think of a submitted claim's lines."""
    said = [_refusal(text) for text in disallow or []]
    body = {"lines": said, "rest": rest}
    show([_row(Remote(url, key).post(f"/claims/{claim}/audit", body, tx))], form)


@app.command("refuse")
def refuse(
    claim: ClaimId,
    reason: Annotated[str, typer.Option(help="why")],
    key: KeyOption,
    line: Annotated[list[int] | None, typer.Option(help="one line only (repeat)")] = None,
    tx: TxOption = None,
    url: UrlOption = HERE,
    form: FormatOption = Format.TABLE,
) -> None:
    """Do not pay an audited claim, or some lines of it."""
    body = {"lines": line or [], "reason": reason}
    show([_row(Remote(url, key).post(f"/claims/{claim}/refuse", body, tx))], form)


@app.command("settle")
def settle(
    claim: ClaimId,
    bank_ref: Annotated[str, typer.Argument(help="your bank's reference")],
    key: KeyOption,
    tx: TxOption = None,
    url: UrlOption = HERE,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say that you have paid what was allowed. Not by who drafted, submitted or audited the claim."""
    body = {"bank_ref": bank_ref}
    show([_row(Remote(url, key).post(f"/claims/{claim}/settle", body, tx))], form)


def _refusal(text: str) -> dict[str, Any]:
    number, _, reason = text.partition("=")
    if not number.isdigit():
        raise BadRequest(f"{text!r} is not <line>=<reason>.", rule="claim.line")
    return {"n": int(number), "allow": False, "reason": reason}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "claim": row["id"],
        "programme": row["programme"],
        "funder": row["funder"],
        "period": row["period"],
        "lines": row["lines"],
        "total": format_yuan(row["total_u"]),
        "allowed": format_yuan(row["allowed_u"]),
        "disallowed": format_yuan(row["disallowed_u"]),
        "state": row["state"],
        "bank_ref": row["bank_ref"],
    }
