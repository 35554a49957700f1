"""Funders, programmes and grants. Money in micro-yuan, shares in basis points, instants in µs."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Text
from sqlmodel import Field, SQLModel


class Funder(SQLModel, table=True):
    """Who pays: a nation, province, city, district, company, or the platform itself."""

    __tablename__ = "funder"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    code: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    name_zh: str = Field(sa_column=Column(Text, nullable=False))
    name_en: str = Field(sa_column=Column(Text, nullable=False))
    level: str = Field(sa_column=Column(Text, nullable=False))
    region: str = Field(default="", sa_column=Column(Text, nullable=False))


class Programme(SQLModel, table=True):
    """One immutable version of a voucher programme; `rules` is canonical JSON that `sha256` covers."""

    __tablename__ = "programme"
    __table_args__ = (Index("programme_version", "code", "version", unique=True),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    code: str = Field(sa_column=Column(Text, nullable=False))
    version: int = Field(sa_column=Column(Integer, nullable=False))
    rules: str = Field(sa_column=Column(Text, nullable=False))
    sha256: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(sa_column=Column(Text, nullable=False))
    author: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    published_at_us: int | None = Field(default=None, sa_column=Column(BigInteger))


class ProgrammeFunder(SQLModel, table=True):
    """A funder's share in a programme; the shares of one programme sum to 10,000 bp."""

    __tablename__ = "programme_funder"

    programme_id: str = Field(sa_column=Column(Text, primary_key=True))
    position: int = Field(sa_column=Column(Integer, primary_key=True))
    funder_id: str = Field(sa_column=Column(Text, nullable=False))
    share_bp: int = Field(sa_column=Column(Integer, nullable=False))
    pool_account_id: int = Field(sa_column=Column(Integer, nullable=False))


class Grant(SQLModel, table=True):
    """A voucher: an amount of one programme for one organisation, backed by its ledger account.

    `window` names the recurrence it belongs to (`2026-11-22` for a daily quota), '' for a single grant.
    """

    __tablename__ = "voucher_grant"
    __table_args__ = (
        Index("voucher_grant_window", "programme_id", "org_id", "window", unique=True),
        Index("voucher_grant_org", "org_id", "expires_at_us"),
    )

    id: str = Field(sa_column=Column(Text, primary_key=True))
    programme_id: str = Field(sa_column=Column(Text, nullable=False))
    org_id: str = Field(sa_column=Column(Text, nullable=False))
    account_id: int = Field(sa_column=Column(Integer, nullable=False, unique=True))
    unit: str = Field(sa_column=Column(Text, nullable=False))
    amount: int = Field(sa_column=Column(BigInteger, nullable=False))
    priority: int = Field(sa_column=Column(Integer, nullable=False))
    window: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(sa_column=Column(Text, nullable=False))
    issued_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    effective_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
