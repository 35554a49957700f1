"""What a call costs: price versions, token buckets, one rounding.

`components` and what it needs are pure; `tables` and `service` keep the dated, immutable versions.

May import: `catalog`.
"""
