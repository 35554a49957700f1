"""Git's own object names, computed without git: what the clients compare and cache by.

Sizes in bytes, object names are 40 hex digits of sha1 over `<kind> <length>\\0<body>`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_MODES = {"file": b"100644", "directory": b"40000"}


class Named(NamedTuple):
    """One entry of a tree: `kind` is `file` or `directory`."""

    name: str
    kind: str
    oid: str


def object_oid(kind: str, body: bytes) -> str:
    """Return the name of an object."""
    # Git's names are sha1 by definition; bodies are checked by sha256.
    return hashlib.sha1(f"{kind} {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()


def blob_oid(body: bytes) -> str:
    """Return the name of a file's content."""
    return object_oid("blob", body)


def pointer(sha256: str, size_bytes: int) -> bytes:
    """Return the LFS pointer that stands for a large file in git."""
    version = "https://git-lfs.github.com/spec/v1"
    return f"version {version}\noid sha256:{sha256}\nsize {size_bytes}\n".encode()


def pointer_oid(sha256: str, size_bytes: int) -> str:
    """Return the name of a large file's pointer."""
    return blob_oid(pointer(sha256, size_bytes))


def tree_oid(entries: Iterable[Named]) -> str:
    """Return the name of a directory; git sorts a directory as if its name ended in a slash."""
    ordered = sorted(
        entries,
        key=lambda entry: entry.name.encode() + (b"/" if entry.kind == "directory" else b""),
    )
    body = b"".join(
        _MODES[entry.kind] + b" " + entry.name.encode() + b"\0" + bytes.fromhex(entry.oid)
        for entry in ordered
    )
    return object_oid("tree", body)


def commit_oid(
    *, tree: str, parent: str | None, author: str, created_at_us: int, message: str
) -> str:
    """Return the name of a commit; the author has no address, which git writes as `<>`."""
    name = "".join(sign for sign in author if sign not in "<>\n\r")
    who = f"{name} <> {created_at_us // 1_000_000} +0000"
    lines = [f"tree {tree}"]
    if parent is not None:
        lines.append(f"parent {parent}")
    lines += [f"author {who}", f"committer {who}", "", message]
    return object_oid("commit", "\n".join(lines).encode("utf-8", "surrogatepass"))
