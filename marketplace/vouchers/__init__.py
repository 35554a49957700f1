"""Programmes, grants and the waterfall: which voucher pays which part of a request, and why not more.

Lives here: programmes as data (`rules`, `schema`, `predicates`, `examples/`), the pure waterfall
(`terms` → `waterfall` → `plan`), the split of a draw among co-funders (`split`), and the tables and
services around them. The pure files do no input or output and know no database.

May import: `catalog`, `marketplace.members`, `marketplace.prices`, `marketplace.ledger`; the pure files
import only the ground floor and each other, because the gateway runs them for every request.
"""
