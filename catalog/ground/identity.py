"""Who is calling, as the catalogue needs to know it.

The catalogue owns no keys: whoever mounts its routers hands in an `Identify`, which turns the
`Authorization` header into a `Caller`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """A member, and what it may do: `orgs` maps an organisation's slug to the member's role in it.

    Roles are `owner`, `admin`, `dev`, `finance` and `auditor`. `is_operator` is the marketplace's own
    staff.
    """

    name: str
    orgs: Mapping[str, str] = field(default_factory=dict)
    is_operator: bool = False


Identify = Callable[[str | None], Caller | None]
"""Takes the `Authorization` header (or None), returns the caller; None is a stranger.

Raises `Unauthenticated` for a key that is not ours: a wrong key is never treated as no key.
"""
