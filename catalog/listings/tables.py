"""Tables of the listings wing.

`Listing` holds the working copy that its owner edits and the state it is in. What the public sees is
never that copy but the `ListingVersion` that `listed_version` points to, which was reviewed as it
stands and cannot change.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel


class Listing(SQLModel, table=True):
    """One model or agent on offer. `tasks` and `languages` are JSON lists."""

    __tablename__ = "listing"

    id: str = Field(primary_key=True)
    slug: str = Field(unique=True)
    """`publisher/name`, lower case; never reused, not even after delisting."""
    kind: str
    owner_org: str = Field(index=True)
    state: str = Field(index=True)
    tier: str
    """Where it is meant to be seen: `sandbox`, `park` or `public`."""

    title_zh: str = ""
    title_en: str = ""
    summary_zh: str = ""
    summary_en: str = ""
    card_zh: str = Field(default="", sa_type=Text)
    card_en: str = Field(default="", sa_type=Text)
    vertical: str
    tasks: str = Field(default="[]", sa_type=Text)
    languages: str = Field(default="[]", sa_type=Text)
    base_model: str | None = None
    licence: str | None = None
    parameters: int | None = Field(default=None, sa_type=BigInteger)
    context_length: int | None = None
    max_output_tokens: int | None = None
    release_id: str | None = None

    filing_route: str | None = None
    filing_number: str | None = None
    filing_status: str = "not_assessed"

    version: int = 0
    """Number of the newest `ListingVersion`; 0 before the first submission."""
    listed_version: int | None = None
    """The version that shoppers see and callers call; None when there is none."""
    grace_until_us: int | None = Field(default=None, sa_type=BigInteger)
    """Until when `listed_version` stays on offer while the listing is away from `listed`."""
    submitted_by: str | None = None
    suspended_reason: str | None = None
    suspended_by: str | None = None
    deprecated_at_us: int | None = Field(default=None, sa_type=BigInteger)
    deprecated_reason: str | None = None
    successor_slug: str | None = None

    popularity: int = Field(default=0, sa_type=BigInteger)
    """Requests of the last 30 days; told by whoever meters them."""
    output_tokens_per_s: float | None = None
    """Of the fastest variant that was measured."""
    quality_bp: int | None = None
    """Score of the best variant that was measured, in basis points."""

    created_by: str
    created_at_us: int = Field(sa_type=BigInteger)
    updated_at_us: int = Field(sa_type=BigInteger)
    listed_at_us: int | None = Field(default=None, sa_type=BigInteger)


class ListingVersion(SQLModel, table=True):
    """What was submitted, word for word. Never updated, never deleted."""

    __tablename__ = "listing_version"

    listing_id: str = Field(primary_key=True, foreign_key="listing.id")
    number: int = Field(primary_key=True)
    release_id: str | None = None
    content: str = Field(sa_type=Text)
    """Canonical JSON, see `catalog.listings.content`."""
    digest: str
    """sha256 of `content`, hexadecimal."""
    note: str = ""
    created_by: str
    created_at_us: int = Field(sa_type=BigInteger)


class ListingVariant(SQLModel, table=True):
    """A build of the listed release for one kind of device; figures are None until measured."""

    __tablename__ = "listing_variant"

    id: str = Field(primary_key=True)
    listing_id: str = Field(foreign_key="listing.id", index=True)
    variant_id: str | None = None
    format: str
    quant: str
    size_bytes: int = Field(sa_type=BigInteger)
    device: str
    """`cpu`, `gpu`, `npu` or `edge`."""
    min_memory_bytes: int | None = Field(default=None, sa_type=BigInteger)
    output_tokens_per_s: float | None = None
    first_token_ms: float | None = None
    quality_bp: int | None = None
    measured_on: str | None = None
    created_at_us: int = Field(sa_type=BigInteger)


class ListingTransition(SQLModel, table=True):
    """What happened to a listing: append-only, each row hashed together with the row before it."""

    __tablename__ = "listing_transition"

    number: int = Field(primary_key=True, sa_type=BigInteger)
    """1, 2, 3 … over all listings, without a gap."""
    listing_id: str = Field(foreign_key="listing.id", index=True)
    event: str
    from_state: str
    to_state: str
    version: int
    actor: str
    acted_as: str
    """The part the actor had: `developer`, `owner`, `reviewer`, `operator` or `system`."""
    at_us: int = Field(sa_type=BigInteger)
    reason: str = ""
    evidence: str = Field(default="{}", sa_type=Text)
    """JSON object; its bytes are hashed."""
    prev_hash: str
    hash: str = Field(unique=True)
