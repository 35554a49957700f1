"""Organisations, their people, facts and keys. Instants in microseconds, money in micro-yuan.

What was once true stays on record: a membership, a fact and a link are ended, never deleted.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Text, UniqueConstraint
from sqlalchemy import text as sql
from sqlmodel import Field, SQLModel


def _text(*, nullable: bool = False, unique: bool = False, index: bool = False) -> Column[str]:
    return Column(Text, nullable=nullable, unique=unique, index=index)


def _key() -> Column[str]:
    return Column(Text, primary_key=True)


def _instant(*, nullable: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable)


class Organisation(SQLModel, table=True):
    """A party that calls, publishes, reviews or funds.

    `uscc` is its 统一社会信用代码, stored whole for claims on public money and masked everywhere else.
    `verified_at_us` is when `verified_by` saw the register's entry for it.
    """

    __tablename__ = "organisation"

    id: str = Field(sa_column=_key())
    slug: str = Field(sa_column=_text(unique=True))
    name: str = Field(sa_column=_text())
    uscc: str | None = Field(default=None, sa_column=Column(Text, nullable=True, unique=True))
    status: str = Field(default="active", sa_column=_text())
    created_at_us: int = Field(sa_column=_instant())
    verified_at_us: int | None = Field(default=None, sa_column=_instant(nullable=True))
    verified_by: str = Field(default="", sa_column=_text())


class OrganisationStatus(SQLModel, table=True):
    """From `at_us` on the organisation is `active` or `suspended`, because `by` said so. Rows are added."""

    __tablename__ = "organisation_status"
    __table_args__ = (Index("organisation_status_org", "org_id", "at_us"),)

    id: str = Field(sa_column=_key())
    org_id: str = Field(sa_column=_text())
    status: str = Field(sa_column=_text())
    reason: str = Field(sa_column=_text())
    by: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=_instant())


class Membership(SQLModel, table=True):
    """A person's role in an organisation, for as long as it lasted. `member` is a name or an address."""

    __tablename__ = "membership"
    __table_args__ = (
        Index(
            "membership_current",
            "org_id",
            "member",
            unique=True,
            sqlite_where=sql("removed_at_us IS NULL"),
            postgresql_where=sql("removed_at_us IS NULL"),
        ),
    )

    id: str = Field(sa_column=_key())
    org_id: str = Field(sa_column=_text())
    member: str = Field(sa_column=_text())
    role: str = Field(sa_column=_text())
    added_by: str = Field(sa_column=_text())
    added_at_us: int = Field(sa_column=_instant())
    removed_by: str = Field(default="", sa_column=_text())
    removed_at_us: int | None = Field(default=None, sa_column=_instant(nullable=True))


class OrgFact(SQLModel, table=True):
    """Something known of an organisation, or of its `listing` (a slug, '' = of itself), with evidence.

    `value` is JSON. It holds from `valid_from_us` on, before `valid_to_us`, and counts only once
    somebody other than `entered_by` has verified it against the evidence.
    """

    __tablename__ = "org_fact"
    __table_args__ = (Index("org_fact_org", "org_id", "key"),)

    id: str = Field(sa_column=_key())
    org_id: str = Field(sa_column=_text())
    listing: str = Field(default="", sa_column=_text())
    key: str = Field(sa_column=_text())
    value: str = Field(sa_column=_text())
    valid_from_us: int = Field(sa_column=_instant())
    valid_to_us: int | None = Field(default=None, sa_column=_instant(nullable=True))
    evidence_sha256: str = Field(sa_column=_text())
    evidence_name: str = Field(sa_column=_text())
    entered_by: str = Field(sa_column=_text())
    entered_at_us: int = Field(sa_column=_instant())
    verified_by: str = Field(default="", sa_column=_text())
    verified_at_us: int | None = Field(default=None, sa_column=_instant(nullable=True))
    ended_by: str = Field(default="", sa_column=_text())


class PartyLink(SQLModel, table=True):
    """What joins two parties, see `related`. A party is an organisation's id, or `uscc:…` outside.

    Parties that never call are recorded too, because relations pass through them.
    """

    __tablename__ = "party_link"

    id: str = Field(sa_column=_key())
    first: str = Field(sa_column=_text())
    second: str = Field(sa_column=_text())
    kind: str = Field(sa_column=_text())
    holding_bp: int = Field(sa_column=Column(Integer, nullable=False))
    valid_from_us: int = Field(sa_column=_instant())
    valid_to_us: int | None = Field(default=None, sa_column=_instant(nullable=True))
    evidence_sha256: str = Field(default="", sa_column=_text())
    evidence_name: str = Field(default="", sa_column=_text())
    entered_by: str = Field(sa_column=_text())
    entered_at_us: int = Field(sa_column=_instant())


class Project(SQLModel, table=True):
    """What an organisation sorts its keys and its spending by."""

    __tablename__ = "project"
    __table_args__ = (UniqueConstraint("org_id", "name", name="project_name"),)

    id: str = Field(sa_column=_key())
    org_id: str = Field(sa_column=_text())
    name: str = Field(sa_column=_text())
    created_at_us: int = Field(sa_column=_instant())


class ApiKey(SQLModel, table=True):
    """A credential. Only its SHA-256 is kept; `prefix` is what a person recognises it by.

    `member` is whose it is ('' = the organisation's own, for its machines). `listings` (JSON list,
    null = all) limits what it may call; `rpm` counts requests per minute, `tpm` tokens per minute,
    `concurrency` calls at once; null = the platform's default. `daily_u` and `monthly_u` bound what it
    spends in a Beijing day and month (see `marketplace.gateway.caps`) and are never changed: the
    ledger has opened accounts by them. `cidrs`: JSON list of networks.
    """

    __tablename__ = "api_key"

    id: str = Field(sa_column=_key())
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
    created_at_us: int = Field(sa_column=_instant())


class Idempotency(SQLModel, table=True):
    """The answer to a write, kept under the caller's key: the same request gets the same answer."""

    __tablename__ = "idempotency_key"

    caller: str = Field(sa_column=_key())
    key: str = Field(sa_column=_key())
    request_sha256: str = Field(sa_column=_text())
    answer: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=_instant())
