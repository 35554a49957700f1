"""A listing that may be called, as plain data: what a worker without a database needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallableListing:
    """A listing that somebody may call: everybody (`public`), members (`park`), its owner (`sandbox`).

    `state` may be another than `listed`: a version stays callable while the next one is reviewed,
    until `until_us` (None: no end is set). Lengths are tokens, None where nobody declared them.
    """

    id: str
    slug: str
    kind: str
    state: str
    tier: str
    owner_org: str
    version: int
    release_id: str | None
    context_length: int | None
    max_output_tokens: int | None
    until_us: int | None
    deprecated_at_us: int | None
