"""Fees, what owners have earned, and what was paid out. Money in micro-yuan, instants in µs."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Text
from sqlmodel import Field, SQLModel


def _text(*, index: bool = False) -> Column[str]:
    return Column(Text, nullable=False, index=index)


def _number() -> Column[int]:
    return Column(BigInteger, nullable=False)


def _maybe() -> Column[int]:
    return Column(BigInteger)


class FeeVersion(SQLModel, table=True):
    """The platform's fee from an instant on, in basis points of what a call costs; never edited.

    `scope` is '' (everybody), `owner:<organisation id>` or `listing:<slug>`; the narrowest applies.
    """

    __tablename__ = "fee_version"
    __table_args__ = (Index("fee_version_scope", "scope", "effective_from_us", unique=True),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    scope: str = Field(sa_column=_text())
    fee_bp: int = Field(sa_column=Column(Integer, nullable=False))
    effective_from_us: int = Field(sa_column=_number())
    author: str = Field(sa_column=_text())
    reason: str = Field(sa_column=_text())
    created_at_us: int = Field(sa_column=_number())


class Accrual(SQLModel, table=True):
    """What an organisation earned or has to give back, once per `kind` and `ref`.

    Kinds: `usage` (a day's calls; `waiting_u` is the share that waits for funders), `settled` (a claim
    that was paid), `refund`, `disallowed`, `clawback`, `adjustment`, `reimbursed`. `matured_tx` is the
    ledger's id of the transfer to `available` that it went into, '' while it waits for `due_at_us`.
    """

    __tablename__ = "payout_accrual"
    __table_args__ = (
        Index("payout_accrual_once", "org_id", "kind", "ref", unique=True),
        Index("payout_accrual_due", "matured_tx", "due_at_us"),
    )

    id: str = Field(sa_column=Column(Text, primary_key=True))
    org_id: str = Field(sa_column=_text())
    kind: str = Field(sa_column=_text())
    ref: str = Field(sa_column=_text())
    gross_u: int = Field(sa_column=_number())
    fee_u: int = Field(sa_column=_number())
    net_u: int = Field(sa_column=_number())
    waiting_u: int = Field(sa_column=_number())
    at_us: int = Field(sa_column=_number())
    due_at_us: int = Field(sa_column=_number())
    matured_tx: str = Field(default="", sa_column=_text())
    matured_at_us: int | None = Field(default=None, sa_column=_maybe())


class AccruedDay(SQLModel, table=True):
    """A Beijing day whose calls have been accrued; `until_us` is its end, exclusive."""

    __tablename__ = "payout_day"

    day: str = Field(sa_column=Column(Text, primary_key=True))
    until_us: int = Field(sa_column=_number())
    calls: int = Field(sa_column=_number())


class PayoutHold(SQLModel, table=True):
    """While it is open, nothing matures for the organisation and nothing is approved for it."""

    __tablename__ = "payout_hold"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    org_id: str = Field(sa_column=_text(index=True))
    reason: str = Field(sa_column=_text())
    by: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=_number())
    released_by: str = Field(default="", sa_column=_text())
    released_at_us: int | None = Field(default=None, sa_column=_maybe())


class Statement(SQLModel, table=True):
    """An organisation's month as it was told: `body` is canonical JSON that `sha256` covers."""

    __tablename__ = "payout_statement"
    __table_args__ = (Index("payout_statement_month", "org_id", "period", unique=True),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    org_id: str = Field(sa_column=_text())
    period: str = Field(sa_column=_text())
    body: str = Field(sa_column=_text())
    sha256: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=_number())


class Payout(SQLModel, table=True):
    """Money on its way to an organisation. States: prepared, approved, exported, paid, reversed."""

    __tablename__ = "payout"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    org_id: str = Field(sa_column=_text(index=True))
    statement_id: str = Field(sa_column=_text())
    amount_u: int = Field(sa_column=_number())
    state: str = Field(sa_column=_text(index=True))
    file_id: str = Field(default="", sa_column=_text(index=True))
    bank_ref: str = Field(default="", sa_column=_text())
    reason: str = Field(default="", sa_column=_text())
    prepared_by: str = Field(sa_column=_text())
    approved_by: str = Field(default="", sa_column=_text())
    closed_by: str = Field(default="", sa_column=_text())
    prepared_at_us: int = Field(sa_column=_number())
    approved_at_us: int | None = Field(default=None, sa_column=_maybe())
    closed_at_us: int | None = Field(default=None, sa_column=_maybe())
    was_paid: int = Field(default=0, sa_column=Column(Integer, nullable=False))


class PayoutFile(SQLModel, table=True):
    """A payment file: its payouts name it. `sha256` covers the CSV bytes."""

    __tablename__ = "payout_file"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    count: int = Field(sa_column=_number())
    total_u: int = Field(sa_column=_number())
    sha256: str = Field(sa_column=_text())
    by: str = Field(sa_column=_text())
    at_us: int = Field(sa_column=_number())
