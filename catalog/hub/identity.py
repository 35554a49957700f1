"""Who is calling. Keys are somebody else's business: this says only what the hub needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["owner", "admin", "dev", "finance", "auditor"]

WRITERS: frozenset[Role] = frozenset({"owner", "admin", "dev"})
ADMINS: frozenset[Role] = frozenset({"owner", "admin"})


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller: `orgs` maps the slug of each organisation to the role in it."""

    name: str
    orgs: Mapping[str, Role] = field(default_factory=dict)
    is_operator: bool = False


Identify = Callable[[str | None], Caller | None]
"""Takes the raw `Authorization` header, returns who that is, None for nobody known. May block."""
