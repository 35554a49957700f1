"""The root of the command line: which groups there are."""

from __future__ import annotations

import typer

from marketplace.cli import (
    artifacts,
    claims,
    endpoints,
    keys,
    ledger,
    listings,
    members,
    models,
    organisations,
    payouts,
    prices,
    programmes,
    quote,
    releases,
    reports,
    run,
    serve,
    usage,
    voucher_life,
    vouchers,
)

app = typer.Typer(
    name="tokenmart",
    help="TokenMart 词元超市: a model and agent marketplace, metered per token, paid with vouchers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(run.up)
app.command("init")(run.init)
app.command("quote")(quote.quote)
app.command("usage")(usage.usage)
app.add_typer(organisations.app, name="org")
app.add_typer(members.app, name="member")
app.add_typer(members.project_app, name="project")
app.add_typer(keys.app, name="key")
app.add_typer(prices.app, name="price")
app.add_typer(programmes.app, name="programme")
app.add_typer(vouchers.app, name="voucher")
app.add_typer(voucher_life.code_app, name="code")
app.add_typer(claims.app, name="claim")
app.add_typer(payouts.app, name="payout")
app.add_typer(reports.app, name="report")
app.add_typer(artifacts.artifact_app, name="artifact")
app.add_typer(models.model_app, name="model")
app.add_typer(releases.release_app, name="release")
app.add_typer(listings.listing_app, name="listing")
app.add_typer(ledger.app, name="ledger")
app.add_typer(endpoints.app, name="endpoint")
app.add_typer(serve.app, name="serve")
