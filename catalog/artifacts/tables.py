"""Rows of the store: what is kept, who holds it, which tensors are inside."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Text
from sqlmodel import Field, SQLModel


class Artifact(SQLModel, table=True):
    """One file body. `condemned_at_us` set means: no longer content, waiting to be removed.

    `parameters` is JSON `{"F32": 1100048384}` for a safetensors file, else null.
    """

    __tablename__ = "artifact"

    sha256: str = Field(primary_key=True, max_length=64)
    size_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    condemned_at_us: int | None = Field(default=None, sa_column=Column(BigInteger, index=True))
    parameters: str | None = Field(default=None, sa_column=Column(Text))


class Holding(SQLModel, table=True):
    """`holder` keeps an artifact alive, and `account` pays for its bytes.

    Pinned: something visible refers to it. Not pinned: an upload brought it and its commit has not come
    yet; it lapses at `leased_until_us`.
    """

    __tablename__ = "artifact_holding"
    __table_args__ = (Index("ix_artifact_holding_account", "account", "sha256"),)

    holder: str = Field(primary_key=True, max_length=64)
    sha256: str = Field(primary_key=True, max_length=64, index=True)
    account: str = Field(max_length=96)
    size_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    pinned: bool = Field(default=False)
    leased_until_us: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))


class Tensor(SQLModel, table=True):
    """One tensor of a safetensors artifact; `digest` is the sha256 of its bytes, shape left out.

    `shape` is JSON (`[32000, 2048]`); offsets count from the first byte of the file.
    """

    __tablename__ = "artifact_tensor"

    sha256: str = Field(primary_key=True, max_length=64)
    name: str = Field(primary_key=True, max_length=512)
    dtype: str = Field(max_length=16)
    shape: str = Field(sa_column=Column(Text, nullable=False))
    start_byte: int = Field(sa_column=Column(BigInteger, nullable=False))
    size_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    digest: str = Field(max_length=64, index=True)
