"""The root of the command line: which groups there are."""

from __future__ import annotations

import typer

from marketplace.cli import (
    endpoints,
    keys,
    ledger,
    members,
    organisations,
    prices,
    quote,
    reports,
    run,
    serve,
    usage,
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
app.add_typer(vouchers.app, name="voucher")
app.add_typer(reports.app, name="report")
app.add_typer(ledger.app, name="ledger")
app.add_typer(endpoints.app, name="endpoint")
app.add_typer(serve.app, name="serve")
