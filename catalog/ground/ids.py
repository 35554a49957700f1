"""Identifiers: made by whoever starts the work, so that a retry can say the same name again.

The body is a ULID (48 bits of milliseconds, 80 random bits, Crockford base 32: 26 characters, sorts by
time) behind a prefix that says what it names: `gen_01K…` a generation, `key_…`, `org_…`, `grt_…`.

Within one millisecond a thread counts on from its last id, a few hundred times at most, as the ULID
specification allows: under load most ids need no random bytes of their own. So a neighbour's id can be
guessed. That gives nothing away: an id is a name, and what it names asks for a key.
"""

from __future__ import annotations

import os
import threading
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]
_RANDOM_BYTES = 10
_COUNTED = len(_PAIRS)
"""Ids that differ in their last two letters alone."""


class _Maker(threading.local):
    """What one thread needs: the letters that its ids of this millisecond share, and the next two."""

    pid = 0
    stamp_ms = -1
    shared = ""
    last = _COUNTED


_maker = _Maker()


def ulid(at_ms: int | None = None) -> str:
    """Return a new ULID of 26 characters; `at_ms` is milliseconds since the Unix epoch."""
    maker = _maker
    stamp_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    last = maker.last + 1
    # A forked process must not go on counting from ours.
    if stamp_ms != maker.stamp_ms or last >= _COUNTED or maker.pid != os.getpid():
        maker.stamp_ms, maker.pid = stamp_ms, os.getpid()
        drawn = int.from_bytes(os.urandom(_RANDOM_BYTES), "big")
        maker.shared = _letters(stamp_ms & (2**48 - 1), 40) + _letters(drawn >> 10, 60)
        last = drawn & (_COUNTED // 2 - 1)
    maker.last = last
    return maker.shared + _PAIRS[last]


def _letters(value: int, highest: int) -> str:
    # Two letters at a time: a table of 1,024 pairs halves the work of a plain loop.
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(highest, -1, -10)])


def new_id(prefix: str) -> str:
    """Return `prefix_ULID`."""
    return f"{prefix}_{ulid()}"
