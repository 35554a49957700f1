"""Where bodies lie. One small interface, two places: a local folder, or any fsspec URL.

    open_store("/var/lib/tokenmart/artifacts")      LocalStore
    open_store("s3://bucket/prefix", spool=…)       RemoteStore (fsspec), spool on the local disk

The database says what is content; a store only keeps bytes under names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from catalog.artifacts.staging import Staged, Staging
from catalog.ground.errors import BadRequest


class Stored(NamedTuple):
    """One file as the store lists it."""

    sha256: str
    size_bytes: int
    modified_at_us: int


class BlobReader(ABC):
    """An open body. `fd` is a file descriptor when the body is a local file, else None.

    Reading goes on after a collector has removed the name: whoever has it open keeps it.
    """

    size_bytes: int
    fd: int | None = None

    @abstractmethod
    def read(self, start_byte: int, length: int) -> bytes:
        """Return up to `length` bytes from `start_byte`; shorter only at the end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class ArtifactStore(ABC):
    """Keeps bodies by sha256. `spool` is a local folder for what is not yet complete."""

    spool: Path

    def stage(self, *, max_bytes: int | None = None) -> Staging:
        """Return a file to write to; see `Staging`."""
        return Staging(self.spool, max_bytes=max_bytes)

    @abstractmethod
    def publish(self, staged: Staged) -> None:
        """Move a staged file to its place, atomically; doing it for known content is harmless."""

    @abstractmethod
    def open(self, sha256: str) -> BlobReader:
        """Open a body; `FileNotFoundError` when it is not here."""

    @abstractmethod
    def exists(self, sha256: str) -> bool:
        """Tell whether a body is here."""

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Remove a body; harmless when it is gone."""

    @abstractmethod
    def walk(self) -> Iterator[Stored]:
        """Yield every body in the store, in no order."""

    def local_path(self, sha256: str) -> Path | None:
        """Return where a body lies when a web server in front could send it itself, else None."""
        del sha256
        return None


def open_store(url: str, *, spool: Path | None = None) -> ArtifactStore:
    """Open the store at a folder path, a `file://` URL or any URL that fsspec knows.

    A remote store needs `spool`; `BadRequest` when it is missing.
    """
    from catalog.artifacts.local import LocalStore

    if "://" not in url or url.startswith("file://"):
        return LocalStore(Path(url.removeprefix("file://")))
    if spool is None:
        raise BadRequest(
            "A remote artifact store needs a local spool folder.", rule="artifacts.url"
        )
    from catalog.artifacts.remote import RemoteStore

    return RemoteStore(url, spool=spool)
