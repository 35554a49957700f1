"""Bodies behind an fsspec URL: S3 and its like, SFTP, another folder, memory (for tests).

A body is sent under a name of its own and then moved: on object stores that is a copy on their side, and
nobody ever sees half a body under its digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.artifacts.staging import Staged
from catalog.artifacts.store import ArtifactStore, BlobReader, Stored
from catalog.ground.clock import SECOND_US, from_datetime
from catalog.ground.ids import new_id


class _RemoteReader(BlobReader):
    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self._path = path
        self.size_bytes = int(fs.info(path)["size"])

    def read(self, start_byte: int, length: int) -> bytes:
        end = min(start_byte + length, self.size_bytes)
        if start_byte >= end:
            return b""
        return bytes(self._fs.cat_file(self._path, start=start_byte, end=end))

    def close(self) -> None:
        """Nothing is open between reads."""


def _modified_at_us(info: dict[str, Any]) -> int:
    for key in ("LastModified", "last_modified", "mtime", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return from_datetime(value)
        if isinstance(value, (int, float)):
            return int(value * SECOND_US)
    return 0


class RemoteStore(ArtifactStore):
    """The store behind a URL; `options` go to fsspec (endpoint, credentials by environment)."""

    def __init__(self, url: str, *, spool: Path, **options: Any) -> None:
        import fsspec

        self._fs, root = fsspec.core.url_to_fs(url, **options)
        self._root = root.rstrip("/")
        self.spool = spool
        self.spool.mkdir(parents=True, exist_ok=True)

    def _path(self, sha256: str) -> str:
        return f"{self._root}/blobs/{sha256[:2]}/{sha256[2:4]}/{sha256}"

    def publish(self, staged: Staged) -> None:
        """Send, then move to the digest's name; content that is there already is not sent again."""
        target = self._path(staged.sha256)
        if not self.exists(staged.sha256):
            coming = f"{self._root}/incoming/{new_id('in')}"
            self._fs.makedirs(f"{self._root}/incoming", exist_ok=True)
            self._fs.put_file(str(staged.path), coming)
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._fs.mv(coming, target)
        staged.discard()

    def open(self, sha256: str) -> BlobReader:
        """Open a body for reading by ranges."""
        return _RemoteReader(self._fs, self._path(sha256))

    def exists(self, sha256: str) -> bool:
        """Tell whether a body is here, asking the store and no cache of listings."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._path(sha256)))

    def delete(self, sha256: str) -> None:
        """Remove a body; harmless when it is gone."""
        try:
            self._fs.rm_file(self._path(sha256))
        except FileNotFoundError:
            return

    def walk(self) -> Iterator[Stored]:
        """Yield every body."""
        self._fs.invalidate_cache()
        found = self._fs.find(f"{self._root}/blobs", detail=True)
        for path, info in found.items():
            name = path.rpartition("/")[2]
            if len(name) == 64:
                yield Stored(name, int(info["size"]), _modified_at_us(info))
