"""Bodies in a folder: `blobs/ab/cd/<sha256>`, spool beside them so that a rename moves a file in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from catalog.artifacts.staging import Staged
from catalog.artifacts.store import ArtifactStore, BlobReader, Stored


class _LocalReader(BlobReader):
    def __init__(self, path: Path) -> None:
        self.fd: int = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self.fd).st_size

    def read(self, start_byte: int, length: int) -> bytes:
        return os.pread(self.fd, length, start_byte)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class LocalStore(ArtifactStore):
    """The store of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.spool = self.root / "incoming"
        self._blobs = self.root / "blobs"
        self.spool.mkdir(parents=True, exist_ok=True)
        self._blobs.mkdir(exist_ok=True)

    def local_path(self, sha256: str) -> Path:
        """Return the place of a body, whether or not it is there."""
        return self._blobs / sha256[:2] / sha256[2:4] / sha256

    def publish(self, staged: Staged) -> None:
        """Rename into place; the folders' entries are on disk before this returns."""
        target = self.local_path(staged.sha256)
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(self._blobs)
            _sync_folder(target.parent.parent)
        staged.path.chmod(0o644)
        os.utime(staged.path)  # the collector's grace begins now, however long the upload took
        staged.path.replace(target)
        _sync_folder(target.parent)

    def open(self, sha256: str) -> BlobReader:
        """Open a body for reading."""
        return _LocalReader(self.local_path(sha256))

    def exists(self, sha256: str) -> bool:
        """Tell whether a body is here."""
        return self.local_path(sha256).is_file()

    def delete(self, sha256: str) -> None:
        """Unlink a body; readers that have it open go on."""
        self.local_path(sha256).unlink(missing_ok=True)

    def walk(self) -> Iterator[Stored]:
        """Yield every body; files whose names are no sha256 are not ours and are passed over."""
        for path in self._blobs.glob("??/??/*"):
            if len(path.name) != 64:
                continue
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            yield Stored(path.name, facts.st_size, facts.st_mtime_ns // 1000)
