"""The ledger's tables. Amounts are in the account's unit (micro-yuan for money), instants in µs."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, SmallInteger, Text
from sqlmodel import Field, SQLModel

_TOTALS = ("dr_pending", "dr_posted", "cr_pending", "cr_posted")


def _amount() -> Column[int]:
    return Column(BigInteger, nullable=False, server_default="0")


class Account(SQLModel, table=True):
    """One balance. `code` is its name; totals stay zero for projections (rule 0)."""

    __tablename__ = "ledger_account"
    __table_args__ = (
        CheckConstraint("rule <> 1 OR dr_pending + dr_posted <= cr_posted", name="rule_1"),
        CheckConstraint("rule <> 2 OR cr_pending + cr_posted <= dr_posted", name="rule_2"),
        *(CheckConstraint(f"{total} >= 0", name=f"{total}_natural") for total in _TOTALS),
    )

    id: int | None = Field(default=None, primary_key=True)
    code: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    unit: str = Field(sa_column=Column(Text, nullable=False))
    rule: int = Field(sa_column=Column(SmallInteger, nullable=False))
    dr_pending: int = Field(default=0, sa_column=_amount())
    dr_posted: int = Field(default=0, sa_column=_amount())
    cr_pending: int = Field(default=0, sa_column=_amount())
    cr_posted: int = Field(default=0, sa_column=_amount())


class Lane(SQLModel, table=True):
    """One writer's own sequence and hash chain, so that two writers never wait for one chain.

    `head` is the SHA-256 (hex) of the lane's last batch; the genesis is 64 zeros.
    """

    __tablename__ = "ledger_lane"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    opened_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    next_seq: int = Field(default=1, sa_column=Column(BigInteger, nullable=False))
    next_batch: int = Field(default=1, sa_column=Column(BigInteger, nullable=False))
    head: str = Field(default="0" * 64, sa_column=Column(Text, nullable=False))


class Batch(SQLModel, table=True):
    """One transaction of a lane: rows `first_seq` to `last_seq`, chained to the batch before it."""

    __tablename__ = "ledger_batch"

    lane: int = Field(sa_column=Column(Integer, primary_key=True))
    n: int = Field(sa_column=Column(BigInteger, primary_key=True))
    first_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    last_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    sha256: str = Field(sa_column=Column(Text, nullable=False))


class Transfer(SQLModel, table=True):
    """One fact: `amount` moved, or was promised, from `debit_id` to `credit_id`. Never updated.

    `debit_total` is the debited account's posted debits after this row (bounded accounts only): the
    number from which each funder's share of this row follows.
    """

    __tablename__ = "ledger_transfer"
    __table_args__ = (
        CheckConstraint("amount >= 0", name="amount_natural"),
        Index("ledger_transfer_once", "tx", "kind", "leg", unique=True),
    )

    lane: int = Field(sa_column=Column(Integer, primary_key=True))
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True))
    tx: str = Field(sa_column=Column(Text, nullable=False))
    leg: int = Field(sa_column=Column(SmallInteger, nullable=False))
    kind: int = Field(sa_column=Column(SmallInteger, nullable=False))
    code: int = Field(sa_column=Column(SmallInteger, nullable=False))
    debit_id: int = Field(sa_column=Column(Integer, nullable=False))
    credit_id: int = Field(sa_column=Column(Integer, nullable=False))
    amount: int = Field(sa_column=Column(BigInteger, nullable=False))
    debit_total: int | None = Field(default=None, sa_column=Column(BigInteger))
    at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class Hold(SQLModel, table=True):
    """An open promise. The row goes when the hold ends; the journal keeps what happened.

    `legs` is JSON `[[account_id, amount, sink_id], …]`, `plan` whatever the caller needs to settle it.
    There are few rows, only the calls that run. On SQLite those that have expired are found without an
    index; PostgreSQL has one, because there the dead rows have to be read as well.
    """

    __tablename__ = "ledger_hold"
    __table_args__ = (
        Index(
            "ix_ledger_hold_expires_at_us", "expires_at_us", info={"only_on": "postgresql"}
        ).ddl_if(dialect="postgresql"),
    )

    tx: str = Field(sa_column=Column(Text, primary_key=True))
    lane: int = Field(sa_column=Column(Integer, nullable=False))
    org_id: str = Field(sa_column=Column(Text, nullable=False))
    legs: str = Field(sa_column=Column(Text, nullable=False))
    plan: str = Field(sa_column=Column(Text, nullable=False))
    held_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class UsageEvent(SQLModel, table=True):
    """One metered call, complete in itself: names are snapshots, prices are frozen, no foreign keys.

    `id` is the generation id and the `tx` of its transfers. Token buckets are disjoint.
    """

    __tablename__ = "usage_event"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    lane: int = Field(sa_column=Column(Integer, nullable=False))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    org_id: str = Field(sa_column=Column(Text, nullable=False))
    key_id: str = Field(sa_column=Column(Text, nullable=False))
    project_id: str = Field(sa_column=Column(Text, nullable=False))
    listing: str = Field(sa_column=Column(Text, nullable=False))
    release_digest: str = Field(sa_column=Column(Text, nullable=False))
    endpoint_id: str = Field(sa_column=Column(Text, nullable=False))
    owner_org_id: str = Field(sa_column=Column(Text, nullable=False))
    price_version_id: str = Field(sa_column=Column(Text, nullable=False))
    prices: str = Field(sa_column=Column(Text, nullable=False))
    started_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    first_token_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    ended_at_us: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    input_uncached: int = Field(sa_column=Column(BigInteger, nullable=False))
    cache_read: int = Field(sa_column=Column(BigInteger, nullable=False))
    cache_write: int = Field(sa_column=Column(BigInteger, nullable=False))
    output: int = Field(sa_column=Column(BigInteger, nullable=False))
    reasoning: int = Field(sa_column=Column(BigInteger, nullable=False))
    usage_source: str = Field(sa_column=Column(Text, nullable=False))
    outcome: str = Field(sa_column=Column(Text, nullable=False))
    streamed: int = Field(sa_column=Column(SmallInteger, nullable=False))
    list_cost_u: int = Field(sa_column=Column(BigInteger, nullable=False))
    cost_u: int = Field(sa_column=Column(BigInteger, nullable=False))
    wallet_u: int = Field(sa_column=Column(BigInteger, nullable=False))
    voucher_u: int = Field(sa_column=Column(BigInteger, nullable=False))
    free_u: int = Field(sa_column=Column(BigInteger, nullable=False))
    overrun_u: int = Field(sa_column=Column(BigInteger, nullable=False))
    raw_usage: str = Field(sa_column=Column(Text, nullable=False))
    route: str = Field(sa_column=Column(Text, nullable=False))
    request_sha256: str = Field(sa_column=Column(Text, nullable=False))

    __table_args__ = (
        Index("usage_event_org", "org_id", "ended_at_us"),
        Index("usage_event_position", "lane", "seq", unique=True),
    )


class Archive(SQLModel, table=True):
    """A stretch of the journal that went into the file `name` (see `seal`). Never updated.

    `previous` is the seal of the archive before it, `open` the promises that reach over the cut (JSON).
    """

    __tablename__ = "ledger_archive"

    number: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    name: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    sha256: str = Field(sa_column=Column(Text, nullable=False))
    previous: str = Field(sa_column=Column(Text, nullable=False))
    before_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    sealed_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    transfers: int = Field(sa_column=Column(BigInteger, nullable=False))
    events: int = Field(sa_column=Column(BigInteger, nullable=False))
    open: str = Field(sa_column=Column(Text, nullable=False))


class ArchivedLane(SQLModel, table=True):
    """Where a lane was cut: its last archived batch and row, and the chain's head there."""

    __tablename__ = "ledger_archived_lane"
    __table_args__ = (Index("ledger_archived_lane_seq", "lane", "last_seq"),)

    archive_id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    lane: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    last_n: int = Field(sa_column=Column(BigInteger, nullable=False))
    last_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    head: str = Field(sa_column=Column(Text, nullable=False))


class Rollup(SQLModel, table=True):
    """What an archive's rows add up to on one account; `segments` are its posted debits (JSON)."""

    __tablename__ = "ledger_rollup"

    archive_id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    account_id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    debits: int = Field(sa_column=Column(BigInteger, nullable=False))
    credits: int = Field(sa_column=Column(BigInteger, nullable=False))
    segments: str = Field(sa_column=Column(Text, nullable=False))


class ArchivedTx(SQLModel, table=True):
    """The id of an archived one-phase post, kept so that sending it again still changes nothing."""

    __tablename__ = "ledger_archived_tx"

    tx: str = Field(sa_column=Column(Text, primary_key=True))
    archive_id: int = Field(sa_column=Column(Integer, nullable=False))
