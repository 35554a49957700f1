"""A large upload in parts: each part is written at its place in one spool file, and survives a restart.

    spool/parts/<repository>-<sha256>/body      the file, parts at (number - 1) x part size
    spool/parts/<repository>-<sha256>/<n>.etag  part n is complete; its entity tag

Parts may come in any order and again; `complete` reads the whole file once to check its sha256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from catalog.artifacts.staging import Staged
from catalog.ground.errors import BadRequest, IntegrityError, PayloadTooLarge
from catalog.ground.ids import new_id


class MultipartUpload:
    """One upload of `size_bytes` bytes in parts of `part_bytes`."""

    def __init__(
        self, spool: Path, repo_id: str, sha256: str, size_bytes: int, part_bytes: int
    ) -> None:
        self._spool = spool
        self._folder = spool / "parts" / f"{repo_id}-{sha256}"
        self._sha256 = sha256
        self._size = size_bytes
        self._part = part_bytes
        self.part_count = -(-size_bytes // part_bytes)

    def _length(self, number: int) -> int:
        if not 1 <= number <= self.part_count:
            raise BadRequest(f"There is no part {number} of {self.part_count}.", rule="hub.lfs")
        return min(self._part, self._size - (number - 1) * self._part)

    def part_writer(self, number: int) -> PartWriter:
        """Return a writer for one part; use it as a context."""
        length = self._length(number)
        self._folder.mkdir(parents=True, exist_ok=True)
        return PartWriter(self._folder, number, (number - 1) * self._part, length)

    def complete(self, tags: dict[int, str]) -> Staged:
        """Check every part and the whole, and return it staged; `IntegrityError` when it is not it."""
        for number in range(1, self.part_count + 1):
            mark = self._folder / f"{number}.etag"
            if not mark.is_file() or tags.get(number, "").strip('"') != mark.read_text():
                raise BadRequest(
                    f"Part {number} of {self.part_count} has not arrived.",
                    rule="hub.lfs",
                    remedy="Upload the file again; parts that arrived are kept for a day.",
                )
        staged = self._take(self._folder / "body")
        shutil.rmtree(self._folder, ignore_errors=True)
        return staged

    def _take(self, body: Path) -> Staged:
        with body.open("r+b") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
            if actual != self._sha256 or size != self._size:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise IntegrityError(
                    f"The sha256 {self._sha256} was announced, the bytes have {actual}.",
                    rule="artifacts.digest",
                    remedy="Upload the file again; it may have changed while it was being sent.",
                )
            os.fsync(stream.fileno())
        path = self._spool / new_id("in")
        body.rename(path)
        return Staged(path, self._sha256, self._size)


class PartWriter:
    """Writes one part at its offset; leaving the context after `finish` marks it complete."""

    def __init__(self, folder: Path, number: int, offset: int, length: int) -> None:
        self._mark = folder / f"{number}.etag"
        self._mark.unlink(missing_ok=True)
        self._fd = os.open(folder / "body", os.O_WRONLY | os.O_CREAT, 0o600)
        self._at = offset
        self._left = length
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append to the part."""
        if len(data) > self._left:
            raise PayloadTooLarge("The part is longer than it was announced.", rule="hub.lfs")
        self._hash.update(data)
        self._left -= len(data)
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self._at)
            self._at += written
            view = view[written:]

    def finish(self) -> str:
        """Mark the part complete and return its entity tag."""
        if self._left:
            raise BadRequest(f"The part is {self._left} bytes short.", rule="hub.lfs")
        os.fsync(self._fd)
        tag = self._hash.hexdigest()
        self._mark.write_text(tag)
        return tag

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._fd)
