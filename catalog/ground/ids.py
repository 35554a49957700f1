"""Identifiers: made by whoever starts the work, so that a retry can say the same name again.

The body is a ULID (48 bits of milliseconds, 80 random bits, Crockford base 32: 26 characters, sorts by
time) behind a prefix that says what it names: `gen_01K…` a generation, `key_…`, `org_…`, `grt_…`.
"""

from __future__ import annotations

import os
import threading
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]
_RANDOM_BYTES = 10
_POOL_BYTES = 512 * _RANDOM_BYTES


class _Maker(threading.local):
    """What one thread needs to make ids: random bytes fetched many at a time, because a system call for
    each id is most of its cost, and the letters of the millisecond that it made the last one in."""

    pool = b""
    at = pid = stamp_ms = 0
    stamp = ""


_maker = _Maker()


def ulid(at_ms: int | None = None) -> str:
    """Return a new ULID of 26 characters; `at_ms` is milliseconds since the Unix epoch."""
    maker = _maker
    at = maker.at
    if at >= len(maker.pool) or maker.pid != os.getpid():  # a forked process must not repeat ours
        maker.pool, maker.pid, at = os.urandom(_POOL_BYTES), os.getpid(), 0
    maker.at = at + _RANDOM_BYTES
    stamp_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    if stamp_ms != maker.stamp_ms or not maker.stamp:
        maker.stamp_ms, maker.stamp = stamp_ms, _letters(stamp_ms & (2**48 - 1), 40)
    return maker.stamp + _letters(int.from_bytes(maker.pool[at : at + _RANDOM_BYTES], "big"), 70)


def _letters(value: int, highest: int) -> str:
    # Two letters at a time: a table of 1,024 pairs halves the work of a plain loop.
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(highest, -1, -10)])


def new_id(prefix: str) -> str:
    """Return `prefix_ULID`."""
    return f"{prefix}_{ulid()}"
