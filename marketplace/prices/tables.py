"""Dated, immutable prices."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Text
from sqlmodel import Field, SQLModel


class PriceVersion(SQLModel, table=True):
    """What `listing` costs from `effective_from_us` until `effective_to_us` (exclusive, null = open).

    `components` is canonical JSON whose bytes `sha256` covers; a version is never edited.
    """

    __tablename__ = "price_version"
    __table_args__ = (Index("price_version_listing", "listing", "effective_from_us", unique=True),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    listing: str = Field(sa_column=Column(Text, nullable=False))
    effective_from_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    effective_to_us: int | None = Field(default=None, sa_column=Column(BigInteger))
    components: str = Field(sa_column=Column(Text, nullable=False))
    sha256: str = Field(sa_column=Column(Text, nullable=False))
    author: str = Field(sa_column=Column(Text, nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class PriceDraft(SQLModel, table=True):
    """A price that somebody proposes or imported; it costs nobody anything until it is published.

    `source` says where it came from, `version_id` which version it became.
    """

    __tablename__ = "price_draft"
    __table_args__ = (Index("price_draft_listing", "listing"),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    listing: str = Field(sa_column=Column(Text, nullable=False))
    components: str = Field(sa_column=Column(Text, nullable=False))
    sha256: str = Field(sa_column=Column(Text, nullable=False))
    source: str = Field(sa_column=Column(Text, nullable=False))
    author: str = Field(sa_column=Column(Text, nullable=False))
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    version_id: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
