"""The bytes that the hash chain covers. Writing and verifying must agree on them, so they are here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

GENESIS = "0" * 64

as_json = msgspec.json.Encoder().encode
"""Rows as compact JSON (UTF-8): what is chained, and on PostgreSQL also what is sent."""


def batch_sha256(previous: str, transfers: bytes, events: bytes) -> str:
    """Return the chain's next head (hex): SHA-256 over `previous`, `transfers` and `events`, a line each.

    `previous` is the head before (hex). The others are JSON arrays of the batch's rows in the order of
    their `seq`, as `as_json` writes them, `[]` when there are none: rows of `ledger_transfer` are arrays
    of its columns in the table's order, those of `usage_event` of `USAGE_COLUMNS`, then `lane` and `seq`.
    JSON text holds no bare line feed, so no two batches are the same bytes.
    """
    return hashlib.sha256(b"\n".join((previous.encode(), transfers, events))).hexdigest()


def rows_sha256(
    previous: str, transfers: Sequence[Sequence[Any]], events: Sequence[Sequence[Any]]
) -> str:
    """Return the same from rows that were read back."""
    return batch_sha256(previous, as_json(transfers), as_json(events))
