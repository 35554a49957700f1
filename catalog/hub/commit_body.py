"""The commit's body: one JSON object a line, read as it comes, small files going straight to the spool."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from catalog.artifacts.store import ArtifactStore
from catalog.ground.errors import BadRequest, PayloadTooLarge
from catalog.hub import git_objects, names
from catalog.hub.changes import AddLarge, AddSmall, CommitRequest, Delete
from catalog.hub.limits import HubLimits

_SHA256 = re.compile(r"[0-9a-f]{64}")
_OVERHEAD_BYTES = 64 * 1024
_KNOWN_KEYS = {"path", "content", "encoding", "oldPath", "oid", "algo", "size", "srcRevision"}


def _bad(what: str, param: str | None = None) -> BadRequest:
    return BadRequest(f"The commit cannot be read: {what}.", rule="hub.commit", param=param)


class CommitReader:
    """Collects a `CommitRequest` from pieces of an NDJSON body; `finish` returns it.

    On any error, and when the request is not used after all, call `request.discard()`.
    """

    def __init__(self, store: ArtifactStore, limits: HubLimits) -> None:
        self.request = CommitRequest()
        self._store = store
        self._limits = limits
        self._line = bytearray()
        self._line_max = limits.inline_max_bytes * 4 // 3 + _OVERHEAD_BYTES
        self._total = 0
        self._headed = False

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the body."""
        self._total += len(piece)
        if self._total > self._limits.commit_body_max_bytes:
            raise PayloadTooLarge(
                f"The commit is larger than {self._limits.commit_body_max_bytes} bytes.",
                rule="hub.commit",
                remedy="Commit fewer files at once.",
            )
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._line += line
            self._take(bytes(self._line))
            self._line.clear()
        self._line += rest
        if len(self._line) > self._line_max:
            raise PayloadTooLarge(
                f"A file inside a commit may have {self._limits.inline_max_bytes} bytes.",
                rule="hub.commit",
                remedy="Send it as a large file: the client does when preupload tells it to.",
            )

    def finish(self) -> CommitRequest:
        """Return the request after the last piece."""
        self._take(bytes(self._line))
        self._line.clear()
        if not self._headed:
            raise _bad("it has no header line")
        return self.request

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            document = json.loads(line)
            key, value = document["key"], document["value"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _bad("a line is not a JSON object with 'key' and 'value'") from None
        if not isinstance(value, dict):
            raise _bad("'value' is not an object")
        if key == "header":
            self._header(value)
            return
        changes = len(self.request.small) + len(self.request.large) + len(self.request.deletes)
        if changes >= self._limits.commit_changes_max:
            raise PayloadTooLarge(
                f"A commit may have {self._limits.commit_changes_max} changes.",
                rule="hub.commit",
                remedy="Commit fewer files at once.",
            )
        self._change(str(key), value)

    def _header(self, value: dict[str, Any]) -> None:
        self._headed = True
        self.request.title = str(value.get("summary") or "")[:1000]
        self.request.description = str(value.get("description") or "")[:20_000]
        parent = value.get("parentCommit")
        sound = isinstance(parent, str) and re.fullmatch(r"[0-9a-f]{7,40}", parent)
        if parent is not None and not sound:
            raise _bad("parentCommit is not a commit id", "parentCommit")
        self.request.parent = parent

    def _change(self, key: str, value: dict[str, Any]) -> None:
        path = value.get("path")
        if not isinstance(path, str):
            raise _bad("a change has no path", "path")
        if value.keys() - _KNOWN_KEYS:
            # A mode of its own would be a link or an executable: neither is ever stored.
            odd = ", ".join(sorted(value.keys() - _KNOWN_KEYS))
            raise _bad(f"{path!r} asks for {odd}; only plain files are kept, no links or modes")
        if key == "file":
            self._small(names.check_path(path), value)
        elif key == "lfsFile":
            self._large(names.check_path(path), value)
        elif key in ("deletedFile", "deletedFolder", "deletedEntry"):
            kind = "directory" if key == "deletedFolder" else "file"
            self.request.deletes.append(Delete(path, kind))
        else:
            raise _bad(f"{key!r} is no kind of change known here", "key")

    def _small(self, path: str, value: dict[str, Any]) -> None:
        content = value.get("content")
        if not isinstance(content, str):
            raise _bad(f"{path!r} has no content", "content")
        try:
            plain = value.get("encoding", "utf-8") != "base64"
            body = content.encode() if plain else base64.b64decode(content, validate=True)
        except (ValueError, binascii.Error):
            raise _bad(f"the content of {path!r} is not base64", "content") from None
        with self._store.stage(max_bytes=self._limits.inline_max_bytes) as staging:
            staging.write(body)
            staged = staging.finish()
        self.request.small.append(AddSmall(path, staged, git_objects.blob_oid(body)))

    def _large(self, path: str, value: dict[str, Any]) -> None:
        sha256, size = str(value.get("oid")), value.get("size")
        if value.get("algo", "sha256") != "sha256" or not _SHA256.fullmatch(sha256):
            raise _bad(f"{path!r} is not named by a sha256", "oid")
        if size is not None and not (isinstance(size, int) and size >= 0):
            raise _bad(f"the size of {path!r} is no whole number", "size")
        self.request.large.append(AddLarge(path, sha256, size))
