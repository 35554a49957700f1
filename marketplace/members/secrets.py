"""What is stored of a key's secret."""

from __future__ import annotations

import hashlib


def digest(secret: str) -> str:
    """Return what is stored of a key: SHA-256, hex. 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
