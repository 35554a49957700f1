"""`tokenmart quote`: what a call would cost, and who would pay."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.ground.clock import now_us
from catalog.ground.errors import BadRequest
from catalog.ground.units import format_yuan
from marketplace.cli.output import Format, FormatOption, say, show
from marketplace.settings import Settings

if TYPE_CHECKING:
    from marketplace.gateway.schemas import Quote, QuoteLeg


def quote(
    model: Annotated[str, typer.Argument(help="the listing, with :free for free quotas alone")],
    org: Annotated[str | None, typer.Option(help="who would call, by slug")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="TOKENMART_KEY", help="or the key that would be used")
    ] = None,
    input_: Annotated[int, typer.Option("--input", min=0, help="tokens in")] = 1000,
    output: Annotated[int, typer.Option("--output", min=1, help="tokens out, at most")] = 1000,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what a call would cost, which vouchers would pay, and why the others would not."""
    if (org is None) == (key is None):
        raise BadRequest("Give either --org or --key.", rule="quote.payer")
    told = asyncio.run(_quote(model, org, key, input_, output))
    if form == Format.JSON:
        print(told.model_dump_json(indent=2))
        return
    rows = [_row(leg) for leg in told.paid_by]
    rows.append({"pays": "wallet", "amount": format_yuan(told.wallet_u), "of_it": ""})
    show(rows, form)
    say(f"costs at most {format_yuan(told.cost_u)} at price {told.price_version}")
    if told.later_u:
        say(f"{format_yuan(told.later_u)} of it would be paid back later")
    for refused in told.vouchers_refused:
        clause = f" ({refused.clause})" if refused.clause else ""
        say(f"not used: {refused.message} [{refused.rule}{clause}]")
    if not told.affordable:
        say(f"not affordable: at most {told.max_affordable_output_tokens} tokens of output are")
        raise typer.Exit(1)


async def _quote(
    model: str, org: str | None, key: str | None, input_tokens: int, output_tokens: int
) -> Quote:
    from marketplace.gateway import quote as quotes
    from marketplace.gateway.caps import NO_CAPS
    from marketplace.gateway.directory import Directory
    from marketplace.gateway.lookup import InThreads, Lookup
    from marketplace.gateway.records import KeyRecord
    from marketplace.members.organisations import organisation

    database = Settings().database
    directory = Directory(InThreads(Lookup(database)))
    record = await directory.listing(model)
    if key is not None:
        found = await directory.key(key)
    else:
        with database.reading() as session:
            caller = organisation(session, org or "")
            found = KeyRecord.of_organisation(caller.id, caller.slug)
    ladder = await directory.ladder(found.org_id, model)
    caps = await directory.caps(found) if key is not None else NO_CAPS
    asked = quotes.Asked(input_tokens, "given", output_tokens)
    with database.reading() as session:
        payer = quotes.Payer(found, ladder, caps)
        return quotes.quote(session, record, payer, asked, model, now_us())


def _row(leg: QuoteLeg) -> dict[str, str]:
    amount = format_yuan(leg.amount) if leg.unit == "CNY" else f"{leg.amount:,} {leg.unit}"
    funders = (f"{part.funder} {format_yuan(part.amount_u)}" for part in leg.funders)
    return {
        "pays": f"{leg.programme} ({leg.kind})",
        "amount": amount,
        "of_it": ", ".join(funders),
    }
