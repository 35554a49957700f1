"""Identifiers: made by whoever starts the work, so that a retry can say the same name again.

The body is a ULID (48 bits of milliseconds, 80 random bits, Crockford base 32: 26 characters, sorts by
time) behind a prefix that says what it names: `gen_01K…` a generation, `key_…`, `org_…`, `grt_…`.
"""

from __future__ import annotations

import os
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]


def ulid(at_ms: int | None = None) -> str:
    """Return a new ULID of 26 characters; `at_ms` is milliseconds since the Unix epoch."""
    stamp = (time.time_ns() // 1_000_000 if at_ms is None else at_ms) & (2**48 - 1)
    value = (stamp << 80) | int.from_bytes(os.urandom(10), "big")
    # 130 bits in 26 letters, two at a time: a table of 1,024 pairs halves the work of a plain loop.
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def new_id(prefix: str) -> str:
    """Return `prefix_ULID`."""
    return f"{prefix}_{ulid()}"
