"""Who may call, what it costs and who pays.

Lives here: the metered gateway, members and keys, prices, vouchers, the ledger, the console pages and
the `tokenmart` command line.

May import: everything below (`benchmarks`, `quantize`, `serving`, `catalog`). Nobody imports it.
"""
