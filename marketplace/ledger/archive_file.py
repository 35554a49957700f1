"""The archive's file: gzip, one line of JSON a batch, in the order in which verify replays them.

{"format": "tokenmart-ledger-archive/1", "before_us": …}
[lane, n, first_seq, last_seq, sha256, [transfer, …], [event, …]]

The two lists are, byte for byte, what the chain covers (see `chain`).
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from catalog.ground.alone import alone
from catalog.ground.errors import Conflict, LedgerCorrupt, NotFound
from marketplace.ledger.groups import Group

FORMAT = "tokenmart-ledger-archive/1"
_LEVEL = 6
_CHUNK = 1 << 20
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[int, int, int, int, str, list[Any], list[Any]])


def one_archive_at_a_time(folder: Path) -> AbstractContextManager[None]:
    """Keep the folder, which is made when it is missing; `Conflict` while an archive is being made there."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = Conflict(
        f"Another archive is being made in {folder}.",
        rule="archive.one_at_a_time",
        remedy="Wait until it is done.",
    )
    return alone(folder / ".lock", taken)


class ArchiveWriter:
    """Writes batches to `path`, which appears only when `close` has made it durable."""

    def __init__(self, path: Path, before_us: int) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._raw = self._partial.open("wb")
        # No name and no time in the header: the same rows are the same bytes.
        self._zip = gzip.GzipFile("", "wb", _LEVEL, self._raw, mtime=0)
        self._zip.write(_encoder.encode({"format": FORMAT, "before_us": before_us}) + b"\n")

    def add(self, group: Group) -> None:
        """Write one batch."""
        self._zip.write(_encoder.encode(group) + b"\n")

    def close(self) -> str:
        """Make the file durable under its name; returns its SHA-256 (hex)."""
        self._zip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        self._partial.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return file_sha256(self._path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._zip.close()
        self._raw.close()
        self._partial.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the file's SHA-256 (hex), read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_archive(path: Path, sha256: str) -> Iterator[Group]:
    """Yield the file's batches; `LedgerCorrupt` when its bytes are not those that were sealed."""
    if not path.is_file():
        raise NotFound(f"There is no archive {path.name} in {path.parent}.", rule="archive.file")
    if file_sha256(path) != sha256:
        raise LedgerCorrupt(
            f"{path.name} is not the file that was sealed: its SHA-256 differs.",
            rule="archive.sha256",
        )
    with gzip.open(path, "rb") as lines:
        if msgspec.json.decode(next(lines)).get("format") != FORMAT:
            raise LedgerCorrupt(f"{path.name} is not a ledger archive.", rule="archive.format")
        for line in lines:
            lane, n, first_seq, last_seq, head, transfers, events = _decoder.decode(line)
            yield Group(lane, n, first_seq, last_seq, head, transfers, events)
