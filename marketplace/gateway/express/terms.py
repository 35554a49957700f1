"""What the express lane knows of one key and one name of a model: plain data, made once and never changed."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.gateway.caps import KeyCaps
from marketplace.gateway.meters import Quota
from marketplace.gateway.records import EndpointRecord, KeyRecord, ListingRecord, OrgLadder


@dataclass(frozen=True, slots=True)
class Terms:
    """Who calls what, who pays, and where it is served.

    Good before `until_us` (microseconds since 1970), the first instant at which one of its records has to be
    looked up again, and until the directory says that anything has changed.
    """

    key: KeyRecord
    record: ListingRecord
    payer: OrgLadder
    caps: KeyCaps
    endpoint: EndpointRecord
    quotas: tuple[Quota, ...]
    until_us: int
    address: tuple[str, int]
    """Where the engine listens: a numeric address and a port."""
    head: bytes
    """The lines of a request to the engine that are the same each time, each with its line end."""
