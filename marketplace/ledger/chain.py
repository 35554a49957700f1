"""The bytes that the hash chain covers. Writing and verifying must agree on them, so they are here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

GENESIS = "0" * 64


def batch_sha256(previous: str, rows: Iterable[Sequence[Any]]) -> str:
    """Return the chain's next head (hex): SHA-256 of the previous head and each row's fields.

    Rows are those of `ledger_transfer` (from `seq` on) and of `usage_event` (in `USAGE_COLUMNS` order,
    then `seq`), in the order of their `seq`. Fields are joined with the unit separator and rows with the
    record separator of ASCII, which no id, number or JSON text contains.
    """
    lines = ["\x1f".join(map(str, row)) for row in rows]
    return hashlib.sha256(f"{previous}\x1e{chr(0x1E).join(lines)}".encode()).hexdigest()
