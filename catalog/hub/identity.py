"""Who is calling (`catalog.ground.identity`), and which roles may write and administer a repository."""

from __future__ import annotations

from catalog.ground.identity import Caller, Identify

WRITERS = frozenset({"owner", "admin", "dev"})
ADMINS = frozenset({"owner", "admin"})

__all__ = ["ADMINS", "WRITERS", "Caller", "Identify"]
