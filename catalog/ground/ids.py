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


class _Chance:
    """Random bytes from the system, fetched many at a time: a system call for each id is most of its cost."""

    __slots__ = ("_at", "_pid", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = self._pid = 0

    def take(self) -> int:
        """Return 80 random bits that nobody else gets: not another thread, and not a forked process."""
        at = self._at
        if at >= len(self._pool) or self._pid != os.getpid():
            self._pool, self._pid, at = os.urandom(_POOL_BYTES), os.getpid(), 0
        self._at = at + _RANDOM_BYTES
        return int.from_bytes(self._pool[at : at + _RANDOM_BYTES], "big")


_local = threading.local()


def ulid(at_ms: int | None = None) -> str:
    """Return a new ULID of 26 characters; `at_ms` is milliseconds since the Unix epoch."""
    try:
        chance = _local.chance
    except AttributeError:
        chance = _local.chance = _Chance()
    stamp = (time.time_ns() // 1_000_000 if at_ms is None else at_ms) & (2**48 - 1)
    value = (stamp << 80) | chance.take()
    # 130 bits in 26 letters, two at a time: a table of 1,024 pairs halves the work of a plain loop.
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def new_id(prefix: str) -> str:
    """Return `prefix_ULID`."""
    return f"{prefix}_{ulid()}"
