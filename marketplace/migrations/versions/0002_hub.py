"""The hub: artifacts and who holds them, repositories, commits, trees, refs, releases and variants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_hub"
down_revision = "0001_core"
branch_labels = None
depends_on = None


def _text(
    name: str, length: int | None = None, *, nullable: bool = False, primary_key: bool = False
) -> sa.Column[str]:
    kind = sa.String(length) if length else sa.Text()
    return sa.Column(name, kind, nullable=nullable, primary_key=primary_key)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _artifacts() -> None:
    op.create_table(
        "artifact",
        _text("sha256", 64, primary_key=True),
        _number("size_bytes"),
        _number("created_at_us"),
        _number("condemned_at_us", nullable=True),
        _text("parameters", nullable=True),
    )
    op.create_index("ix_artifact_condemned_at_us", "artifact", ["condemned_at_us"])
    op.create_table(
        "artifact_holding",
        _text("holder", 64, primary_key=True),
        _text("sha256", 64, primary_key=True),
        _text("account", 96),
        _number("size_bytes"),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        _number("leased_until_us"),
    )
    op.create_index("ix_artifact_holding_sha256", "artifact_holding", ["sha256"])
    op.create_index("ix_artifact_holding_account", "artifact_holding", ["account", "sha256"])
    op.create_index("ix_artifact_holding_leased_until_us", "artifact_holding", ["leased_until_us"])
    op.create_table(
        "artifact_tensor",
        _text("sha256", 64, primary_key=True),
        _text("name", 512, primary_key=True),
        _text("dtype", 16),
        _text("shape"),
        _number("start_byte"),
        _number("size_bytes"),
        _text("digest", 64),
    )
    op.create_index("ix_artifact_tensor_digest", "artifact_tensor", ["digest"])


def _repos() -> None:
    op.create_table(
        "hub_repo",
        _text("id", 40, primary_key=True),
        _text("org", 96),
        _text("name", 96),
        _text("name_key", 96),
        sa.Column("private", sa.Boolean(), nullable=False),
        _text("gated", 8),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        _number("downloads"),
        _text("created_by", 96),
        _number("created_at_us"),
        _number("updated_at_us"),
        _text("card"),
        _text("facts"),
        sa.UniqueConstraint("org", "name_key", name="uq_hub_repo_name"),
    )
    op.create_index("ix_hub_repo_updated_at_us", "hub_repo", ["updated_at_us"])
    op.create_table(
        "hub_commit",
        _text("repo_id", 40, primary_key=True),
        _text("oid", 40, primary_key=True),
        _text("tree_oid", 40),
        _text("parent_oid", 40, nullable=True),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("file_count", sa.Integer(), nullable=False),
        _text("title"),
        _text("message"),
        _text("author", 96),
        _number("created_at_us"),
    )
    op.create_table(
        "hub_tree_entry",
        _text("repo_id", 40, primary_key=True),
        _text("tree_oid", 40, primary_key=True),
        _text("name", 255, primary_key=True),
        _text("kind", 9),
        _text("oid", 40),
        _text("sha256", 64, nullable=True),
        _number("size_bytes"),
        sa.Column("is_lfs", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_hub_tree_entry_sha256", "hub_tree_entry", ["sha256"])


def _refs() -> None:
    op.create_table(
        "hub_ref",
        _text("repo_id", 40, primary_key=True),
        _text("name", 255, primary_key=True),
        _text("commit_oid", 40),
        _text("message"),
        _number("created_at_us"),
    )
    op.create_table(
        "hub_pull",
        _text("repo_id", 40, primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        _text("title"),
        _text("description"),
        _text("author", 96),
        _text("status", 8),
        _text("target", 255),
        _text("base_oid", 40),
        _text("merge_oid", 40, nullable=True),
        _number("created_at_us"),
    )
    op.create_table(
        "hub_xet_session",
        _text("id", 40, primary_key=True),
        _text("repo_id", 40),
        _text("caller", 96),
        _number("received_bytes"),
        _number("touched_at_us"),
        _number("closed_at_us", nullable=True),
    )
    op.create_index("ix_hub_xet_session_repo_id", "hub_xet_session", ["repo_id"])
    op.create_index("ix_hub_xet_session_touched_at_us", "hub_xet_session", ["touched_at_us"])


def _releases() -> None:
    op.create_table(
        "release",
        _text("id", 40, primary_key=True),
        _text("repo_id", 40),
        _text("repo_name", 200),
        _text("org", 96),
        _text("version", 64),
        _text("commit_oid", 40),
        _text("digest", 64),
        _text("manifest"),
        _text("created_by", 96),
        _number("created_at_us"),
        sa.UniqueConstraint("repo_id", "version", name="uq_release_version"),
        sa.UniqueConstraint("repo_id", "commit_oid", name="uq_release_commit"),
    )
    op.create_index("ix_release_digest", "release", ["digest"])
    op.create_index("ix_release_repo_name", "release", ["repo_name"])
    op.create_table(
        "release_variant",
        _text("id", 40, primary_key=True),
        _text("release_id", 40),
        _text("name", 96),
        _text("format", 32),
        _text("precision", 32),
        _text("digest", 64),
        _number("size_bytes"),
        _text("files"),
        _text("lineage"),
        _text("created_by", 96),
        _number("created_at_us"),
        sa.UniqueConstraint("release_id", "name", name="uq_release_variant_name"),
    )
    op.create_index("ix_release_variant_digest", "release_variant", ["digest"])


def upgrade() -> None:
    _artifacts()
    _repos()
    _refs()
    _releases()
