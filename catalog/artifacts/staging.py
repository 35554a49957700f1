"""Bytes on their way in: written to the spool and hashed in the same pass, never whole in memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from catalog.ground.errors import IntegrityError, PayloadTooLarge
from catalog.ground.ids import new_id


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete file in the spool, on disk for good (fsync), waiting to be registered."""

    path: Path
    sha256: str
    size_bytes: int

    def discard(self) -> None:
        """Remove it; harmless when it has been registered already."""
        self.path.unlink(missing_ok=True)


class Staging:
    """A file being written to the spool. Use as a context: leaving it without `finish` removes it.

    `max_bytes` bounds what `write` accepts and raises `PayloadTooLarge` beyond it.
    """

    def __init__(self, spool: Path, *, max_bytes: int | None = None) -> None:
        spool.mkdir(parents=True, exist_ok=True)
        self.path = spool / new_id("in")
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._finished = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append; feed pieces of 64 KiB and more, below 2 KiB hashing holds the interpreter."""
        self.size_bytes += len(data)
        if self._max_bytes is not None and self.size_bytes > self._max_bytes:
            raise PayloadTooLarge(
                f"The file is larger than the {self._max_bytes} bytes that were announced or allowed.",
                rule="artifacts.size",
            )
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self, *, sha256: str | None = None, size_bytes: int | None = None) -> Staged:
        """Close and return the file; `IntegrityError` when it is not what was announced."""
        actual = self._hash.hexdigest()
        if size_bytes is not None and size_bytes != self.size_bytes:
            raise IntegrityError(
                f"{size_bytes} bytes were announced and {self.size_bytes} arrived.",
                rule="artifacts.size",
                remedy="Upload the file again.",
            )
        if sha256 is not None and sha256 != actual:
            raise IntegrityError(
                f"The sha256 {sha256} was announced, the bytes have {actual}.",
                rule="artifacts.digest",
                remedy="Upload the file again; it may have changed while it was being sent.",
            )
        os.fsync(self._fd)
        os.close(self._fd)
        self._finished = True
        return Staged(self.path, actual, self.size_bytes)

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_error: object) -> None:
        if not self._finished:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self.path.unlink(missing_ok=True)
