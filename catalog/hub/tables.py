"""Rows of the hub: repositories, their commits and trees, refs, pull requests, Xet uploads."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Text, UniqueConstraint
from sqlmodel import Field, SQLModel


class Repo(SQLModel, table=True):
    """A model repository `org/name`. `name_key` is the lower-case name: letter case makes no new name.

    `gated` is `""`, `"auto"` or `"manual"`. `card` is JSON of the front matter of the README on `main`,
    `facts` JSON read from the files on `main` (see `cards.py`).
    """

    __tablename__ = "hub_repo"
    __table_args__ = (UniqueConstraint("org", "name_key"),)

    id: str = Field(primary_key=True, max_length=40)
    org: str = Field(max_length=96)
    name: str = Field(max_length=96)
    name_key: str = Field(max_length=96)
    private: bool = Field(default=False)
    gated: str = Field(default="", max_length=8)
    disabled: bool = Field(default=False)
    downloads: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    created_by: str = Field(max_length=96)
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    updated_at_us: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    card: str = Field(default="{}", sa_column=Column(Text, nullable=False))
    facts: str = Field(default="{}", sa_column=Column(Text, nullable=False))

    @property
    def full_name(self) -> str:
        """Return `org/name`."""
        return f"{self.org}/{self.name}"


class Commit(SQLModel, table=True):
    """One commit; `oid` is its git sha1. `depth` counts from the first commit, which has 0;
    `file_count` is how many files its tree has.
    """

    __tablename__ = "hub_commit"

    repo_id: str = Field(primary_key=True, max_length=40)
    oid: str = Field(primary_key=True, max_length=40)
    tree_oid: str = Field(max_length=40)
    parent_oid: str | None = Field(default=None, max_length=40)
    depth: int
    file_count: int
    title: str = Field(sa_column=Column(Text, nullable=False))
    message: str = Field(sa_column=Column(Text, nullable=False))
    author: str = Field(max_length=96)
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class TreeEntry(SQLModel, table=True):
    """One name in one directory. A directory is its git oid, so unchanged ones are shared by commits.

    `kind` is `file` or `directory`; for a file `sha256` names the artifact and `oid` is the git sha1 of
    the content, or of the LFS pointer when `is_lfs`.
    """

    __tablename__ = "hub_tree_entry"

    repo_id: str = Field(primary_key=True, max_length=40)
    tree_oid: str = Field(primary_key=True, max_length=40)
    name: str = Field(primary_key=True, max_length=255)
    kind: str = Field(max_length=9)
    oid: str = Field(max_length=40)
    sha256: str | None = Field(default=None, max_length=64, index=True)
    size_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    is_lfs: bool = Field(default=False)


class Ref(SQLModel, table=True):
    """A name for a commit: `refs/heads/main`, `refs/tags/v1`, `refs/pr/1`."""

    __tablename__ = "hub_ref"

    repo_id: str = Field(primary_key=True, max_length=40)
    name: str = Field(primary_key=True, max_length=255)
    commit_oid: str = Field(max_length=40)
    message: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class Pull(SQLModel, table=True):
    """A pull request; its commits are under `refs/pr/<number>`. `status`: draft, open, merged, closed."""

    __tablename__ = "hub_pull"

    repo_id: str = Field(primary_key=True, max_length=40)
    number: int = Field(primary_key=True)
    title: str = Field(sa_column=Column(Text, nullable=False))
    description: str = Field(default="", sa_column=Column(Text, nullable=False))
    author: str = Field(max_length=96)
    status: str = Field(max_length=8)
    target: str = Field(max_length=255)
    base_oid: str = Field(max_length=40)
    merge_oid: str | None = Field(default=None, max_length=40)
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class XetSession(SQLModel, table=True):
    """One client's Xet upload into one repository; its xorbs lie in the spool under `id`.

    Closed once a shard has been accepted: the next token then opens another (see `xet_sessions.py`).
    """

    __tablename__ = "hub_xet_session"

    id: str = Field(primary_key=True, max_length=40)
    repo_id: str = Field(max_length=40, index=True)
    caller: str = Field(max_length=96)
    received_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    touched_at_us: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    closed_at_us: int | None = Field(default=None, sa_column=Column(BigInteger))
