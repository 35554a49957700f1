"""What a repository, a revision and a file may be called.

A path that one machine can store and another cannot is a trap for whoever downloads it, so the rules are
those of the strictest: no traversal, no control characters, nothing that Windows keeps for itself, Unicode
in its composed form, and (see `trees.py`) no two names in a folder that differ only in letter case.
"""

from __future__ import annotations

import re
import unicodedata

from catalog.ground.errors import BadRequest

_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REF_PART = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]{1,128}")
_NOT_ON_WINDOWS = re.compile(
    r'.*[\\<>:"|?*].*|(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?', re.IGNORECASE
)
_FORBIDDEN_SEGMENTS = {"", ".", "..", ".git", ".cache"}


def check_repo_part(text: str, what: str) -> str:
    """Return a namespace or a name when it is well formed, as the clients define that."""
    sound = not any(bad in text for bad in ("--", "..")) and not text.endswith(".git")
    if sound and _REPO_PART.fullmatch(text):
        return text
    raise BadRequest(
        f"{text!r} is not a valid {what}.",
        code="repo_name_invalid",
        rule="hub.names",
        remedy="Use 1 to 96 of A-Z a-z 0-9 - _ . without '--' or '..', not ending in .git.",
    )


def _bad_path(path: str, why: str) -> BadRequest:
    return BadRequest(
        f"The path {path!r} is refused: {why}.",
        code="path_invalid",
        rule="hub.paths",
        remedy="Rename the file and upload again; nothing of this commit was stored.",
        details={"path": path},
    )


def check_path(path: str) -> str:
    """Return the path when it can be stored; `BadRequest` says why not."""
    if any(unicodedata.category(sign) in _UNPRINTABLE for sign in path):
        raise _bad_path(path, "it contains an unprintable character")
    if unicodedata.normalize("NFC", path) != path:
        raise _bad_path(path, "it is not in composed Unicode form (NFC)")
    if len(path.encode()) > 1024:
        raise _bad_path(path, "it is longer than 1024 bytes")
    for segment in path.split("/"):
        if segment.lower() in _FORBIDDEN_SEGMENTS:
            raise _bad_path(path, f"{segment!r} cannot be a part of it")
        if len(segment.encode()) > 255:
            raise _bad_path(path, "a part of it is longer than 255 bytes")
        if segment != segment.strip(" ") or segment.endswith("."):
            raise _bad_path(path, "a part of it begins or ends with a space, or ends with a dot")
        if _NOT_ON_WINDOWS.fullmatch(segment):
            raise _bad_path(path, f"Windows has no file called {segment!r}")
    return path


_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def is_commit(revision: str) -> bool:
    """Tell whether a revision is a full commit id."""
    return _COMMIT.fullmatch(revision) is not None


def check_ref_part(name: str) -> str:
    """Return a branch or tag name when git would take it."""
    parts = name.split("/")
    plain = all(
        _REF_PART.fullmatch(part) and part[0] != "." and not part.endswith((".", ".lock"))
        for part in parts
    )
    if plain and ".." not in name and "@{" not in name and not is_commit(name) and len(name) < 200:
        return name
    raise BadRequest(
        f"{name!r} is not a valid branch or tag name.", rule="hub.refs", code="ref_invalid"
    )


def ref_candidates(revision: str) -> list[str]:
    """Return the full ref names that a revision may mean, the most likely first."""
    if revision.startswith("refs/"):
        return [revision]
    return [f"refs/heads/{revision}", f"refs/tags/{revision}"]
