"""Rows of releases and of the variants built from them. Neither is ever changed."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel


class Release(SQLModel, table=True):
    """An immutable commit under a version. `manifest` is JSON (see `manifest.py`)."""

    __tablename__ = "release"
    __table_args__ = (
        UniqueConstraint("repo_id", "version"),
        UniqueConstraint("repo_id", "commit_oid"),
        Index("ix_release_repo_name", "repo_name"),
    )

    id: str = Field(primary_key=True, max_length=40)
    repo_id: str = Field(max_length=40)
    repo_name: str = Field(max_length=200)
    org: str = Field(max_length=96)
    version: str = Field(max_length=64)
    commit_oid: str = Field(max_length=40)
    digest: str = Field(max_length=64, index=True)
    manifest: str = Field(sa_column=Column(Text, nullable=False))
    created_by: str = Field(max_length=96)
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class Variant(SQLModel, table=True):
    """A build of a release for a kind of device. `files` is JSON `[{"path", "sha256", "size_bytes"}]`;
    `lineage` is JSON: from which digests, by which recipe, with which tools.
    """

    __tablename__ = "release_variant"
    __table_args__ = (UniqueConstraint("release_id", "name"),)

    id: str = Field(primary_key=True, max_length=40)
    release_id: str = Field(max_length=40)
    name: str = Field(max_length=96)
    format: str = Field(max_length=32)
    precision: str = Field(max_length=32)
    digest: str = Field(max_length=64, index=True)
    size_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    files: str = Field(sa_column=Column(Text, nullable=False))
    lineage: str = Field(sa_column=Column(Text, nullable=False))
    created_by: str = Field(max_length=96)
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
