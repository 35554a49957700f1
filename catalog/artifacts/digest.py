"""The digest of a set of files: anybody can compute it again with coreutils.

find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def files_digest(sha256_by_path: Mapping[str, str]) -> str:
    """Return the sha256 over `<sha256>  <path>` lines, sorted by the paths' bytes."""
    lines = sorted(sha256_by_path.items(), key=lambda item: item[0].encode())
    text = "".join(f"{sha256}  {path}\n" for path, sha256 in lines)
    return hashlib.sha256(text.encode()).hexdigest()
