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
