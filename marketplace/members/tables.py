"""Organisations and keys. Instants in microseconds, money in micro-yuan, lists as JSON text."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Text
from sqlmodel import Field, SQLModel


def _text(*, nullable: bool = False, unique: bool = False, index: bool = False) -> Column[str]:
    return Column(Text, nullable=nullable, unique=unique, index=index)


class Organisation(SQLModel, table=True):
    """A party that calls, publishes, reviews or funds. `uscc` is its 统一社会信用代码."""

    __tablename__ = "organisation"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    slug: str = Field(sa_column=_text(unique=True))
    name: str = Field(sa_column=_text())
    uscc: str | None = Field(default=None, sa_column=Column(Text, nullable=True, unique=True))
    status: str = Field(default="active", sa_column=_text())
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class ApiKey(SQLModel, table=True):
    """A credential. Only its SHA-256 is kept; `prefix` is what a person recognises it by.

    `listings` (JSON list, null = all) limits what it may call; `rpm` counts requests per minute, `tpm`
    tokens per minute, `concurrency` calls at once; null = the platform's default. `daily_u` and
    `monthly_u` bound its spending in Beijing days and months. `cidrs`: JSON list of networks.
    """

    __tablename__ = "api_key"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    org_id: str = Field(sa_column=_text(index=True))
    project_id: str = Field(default="", sa_column=_text())
    member: str = Field(default="", sa_column=_text())
    name: str = Field(sa_column=_text())
    prefix: str = Field(sa_column=_text())
    sha256: str = Field(sa_column=_text(unique=True))
    operator: bool = Field(default=False, sa_column=Column(Boolean, nullable=False))
    listings: str | None = Field(default=None, sa_column=Column(Text))
    cidrs: str | None = Field(default=None, sa_column=Column(Text))
    rpm: int | None = Field(default=None, sa_column=Column(BigInteger))
    tpm: int | None = Field(default=None, sa_column=Column(BigInteger))
    concurrency: int | None = Field(default=None, sa_column=Column(BigInteger))
    daily_u: int | None = Field(default=None, sa_column=Column(BigInteger))
    monthly_u: int | None = Field(default=None, sa_column=Column(BigInteger))
    expires_at_us: int | None = Field(default=None, sa_column=Column(BigInteger))
    revoked_at_us: int | None = Field(default=None, sa_column=Column(BigInteger))
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
