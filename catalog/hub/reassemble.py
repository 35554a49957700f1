"""From a shard and its xorbs back to plain files, checked by sha256."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from catalog.artifacts.staging import Staged
from catalog.artifacts.store import ArtifactStore
from catalog.ground.errors import BadRequest
from catalog.hub.xorbs import Segment, ShardFile, XorbFile

_HASH = re.compile(r"[0-9a-f]{64}")
_WRITE_BYTES = 1 << 20


def xorb_path(folder: Path, xorb: str) -> Path:
    """Return where a xorb of a session lies; `BadRequest` when the name is no hash."""
    if not _HASH.fullmatch(xorb):
        raise BadRequest("A xorb is named by 64 hex digits.", code="xet_invalid", rule="hub.xet")
    return folder / xorb


class Reassembler:
    """Writes files from the xorbs in `folder`. Keeps the last xorb open: files lie in it in order."""

    def __init__(self, store: ArtifactStore, folder: Path, *, max_bytes: int) -> None:
        self._store = store
        self._folder = folder
        self._max_bytes = max_bytes
        self._name = ""
        self._xorb: XorbFile | None = None

    def _open(self, name: str) -> XorbFile:
        if self._xorb is None or name != self._name:
            self.close()
            path = xorb_path(self._folder, name)
            if not path.is_file():
                raise BadRequest(
                    f"The shard names xorb {name}, which is not here any more.",
                    code="xet_missing",
                    rule="hub.xet",
                    remedy="Upload again: a new upload sends everything.",
                )
            self._xorb, self._name = XorbFile(path), name
        return self._xorb

    def _pieces(self, segment: Segment) -> Iterator[bytearray]:
        piece, total = bytearray(), 0
        for chunk in self._open(segment.xorb).chunks(segment.first, segment.last):
            piece += chunk
            total += len(chunk)
            if total > segment.size_bytes:
                break
            if len(piece) >= _WRITE_BYTES:
                yield piece
                piece = bytearray()
        if total != segment.size_bytes:
            raise BadRequest("A segment has another length than the shard says.", rule="hub.xet")
        if piece:
            yield piece

    def file(self, wanted: ShardFile) -> Staged:
        """Write one file to the spool; `IntegrityError` when its sha256 is not the announced one."""
        with self._store.stage(max_bytes=self._max_bytes) as staging:
            for segment in wanted.segments:
                for piece in self._pieces(segment):
                    staging.write(piece)
            return staging.finish(sha256=wanted.sha256, size_bytes=wanted.size_bytes)

    def close(self) -> None:
        """Let go of the open xorb."""
        if self._xorb is not None:
            self._xorb.__exit__()
            self._xorb = None
