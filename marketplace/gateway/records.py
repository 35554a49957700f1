"""What a worker knows of keys, listings and payers: plain data, made by `lookup`, kept by `directory`.

A worker has no database session, so these travel from the office as bytes: `encode` and `decode`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from catalog.ground.errors import Forbidden, NotFound, Unauthenticated
from catalog.listings.callable import CallableListing
from marketplace.prices.components import Components
from marketplace.vouchers.ladder import Ladder, Step
from marketplace.vouchers.terms import Refusal
from serving.routing import Candidate

FREE_SUFFIX = ":free"
"""`slug:free` calls the same model, paid by free quotas alone."""

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key that exists; whether it may be used is asked at each call."""

    id: str
    org_id: str
    org_slug: str
    org_active: bool
    project_id: str
    operator: bool
    listings: frozenset[str] | None
    networks: tuple[str, ...]
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    daily_u: int | None
    monthly_u: int | None
    expires_at_us: int | None
    revoked_at_us: int | None
    member_id: str = ""
    """Whose key it is, '' for a machine's."""

    @classmethod
    def of_organisation(cls, org_id: str, org_slug: str) -> KeyRecord:
        """Return what a key without any limit would be: for questions, never for calls."""
        return cls(
            id="",
            org_id=org_id,
            org_slug=org_slug,
            org_active=True,
            project_id="",
            operator=False,
            listings=None,
            networks=(),
            rpm=None,
            tpm=None,
            concurrency=None,
            daily_u=None,
            monthly_u=None,
            expires_at_us=None,
            revoked_at_us=None,
        )

    def check(self, at_us: int, client: str | None) -> None:
        """Raise what is wrong with using this key now, from `client` (an address)."""
        if self.revoked_at_us is not None:
            raise Unauthenticated(
                "This key has been revoked.", code="key_revoked", remedy="Use another key."
            )
        if self.expires_at_us is not None and self.expires_at_us <= at_us:
            raise Unauthenticated(
                "This key has expired.", code="key_expired", remedy="Make a new key."
            )
        if not self.org_active:
            raise Forbidden(
                f"The organisation {self.org_slug} is suspended.", code="organisation_suspended"
            )
        if self.networks and not self._from_known_network(client):
            raise Forbidden(
                "This key may not be used from this address.",
                code="address_not_allowed",
                rule="key.cidrs",
            )

    def _from_known_network(self, client: str | None) -> bool:
        if client is None:
            return False
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        return any(address in ipaddress.ip_network(network) for network in self.networks)


class EndpointRecord(Candidate, frozen=True, kw_only=True):
    """One engine: `url` ends before `/v1`, `api_key` is what it asks of us ('' = nothing).

    `speaks` names the shapes beyond chat/completions that it answers itself (`responses`, `messages`).
    """

    api_key: str = ""
    speaks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ListingRecord:
    """A listing that may be called, its price in force and the engines behind it."""

    listing: CallableListing
    price_version_id: str
    components: Components
    components_text: str
    until_us: int
    """When to look again: the price or the listing's grace ends."""
    owner_account_id: int
    fee_bp: int
    endpoints: tuple[EndpointRecord, ...]


@dataclass(frozen=True, slots=True)
class OrgLadder:
    """Who pays for an organisation's calls of one listing, until something changes."""

    ladder: Ladder
    accounts: tuple[int, ...]
    """Every account that the ladder may draw on; the wallet is the last."""
    sinks: Mapping[int, int]
    """By grant account: where its legs go that do not pay this call in money."""
    good_until_us: int
    built_at_us: int


def encode(record: Any) -> bytes:
    """Return a record as bytes (MessagePack)."""
    return _encoder.encode(record)


def decode(data: bytes, kind: type[Record]) -> Record:
    """Return the record of this kind; `msgspec.ValidationError` when it is none."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_from_plain)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Ladder):
        return [value.steps, value.refusals, value.wallet_account_id]
    raise NotImplementedError(type(value))


def _from_plain(kind: type, value: Any) -> Any:
    if kind is Ladder:
        steps, refusals, wallet = value
        return Ladder(
            tuple(Step(*step) for step in steps), tuple(Refusal(*r) for r in refusals), wallet
        )
    raise NotImplementedError(kind)


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_plain)


def no_such_key() -> Unauthenticated:
    """Return the error for a secret that opens nothing."""
    return Unauthenticated(
        "This is not a key of this marketplace.",
        remedy="Check the key, or make one: tokenmart key create.",
    )


def model_not_found(slug: str) -> NotFound:
    """Return the error for a name that is no listing, or none that this caller may know of."""
    return NotFound(
        f"The model {slug!r} does not exist or is not listed.",
        code="model_not_found",
        param="model",
        remedy="GET /v1/models shows what can be called.",
    )
