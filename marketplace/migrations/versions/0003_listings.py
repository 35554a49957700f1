"""Revision 0003_listings: listings, their versions, variants and history, and the search index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003_listings"
down_revision = "0002_hub"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_listing()
    _create_version_and_variant()
    _create_transition()
    _create_change_marker()
    _create_search_columns()
    if op.get_bind().dialect.name == "sqlite":
        _create_search_text_sqlite()
    else:
        _create_search_text_postgresql()


def _create_listing() -> None:
    op.create_table(
        "listing",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("slug", sa.String, nullable=False, unique=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("owner_org", sa.String, nullable=False, index=True),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("tier", sa.String, nullable=False),
        sa.Column("title_zh", sa.String, nullable=False),
        sa.Column("title_en", sa.String, nullable=False),
        sa.Column("summary_zh", sa.String, nullable=False),
        sa.Column("summary_en", sa.String, nullable=False),
        sa.Column("card_zh", sa.Text, nullable=False),
        sa.Column("card_en", sa.Text, nullable=False),
        sa.Column("vertical", sa.String, nullable=False),
        sa.Column("tasks", sa.Text, nullable=False),
        sa.Column("languages", sa.Text, nullable=False),
        sa.Column("base_model", sa.String),
        sa.Column("licence", sa.String),
        sa.Column("parameters", sa.BigInteger),
        sa.Column("context_length", sa.Integer),
        sa.Column("max_output_tokens", sa.Integer),
        sa.Column("release_id", sa.String),
        sa.Column("filing_route", sa.String),
        sa.Column("filing_number", sa.String),
        sa.Column("filing_status", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("listed_version", sa.Integer),
        sa.Column("grace_until_us", sa.BigInteger),
        sa.Column("submitted_by", sa.String),
        sa.Column("suspended_reason", sa.String),
        sa.Column("suspended_by", sa.String),
        sa.Column("deprecated_at_us", sa.BigInteger),
        sa.Column("deprecated_reason", sa.String),
        sa.Column("successor_slug", sa.String),
        sa.Column("popularity", sa.BigInteger, nullable=False),
        sa.Column("output_tokens_per_s", sa.Float),
        sa.Column("quality_bp", sa.Integer),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("updated_at_us", sa.BigInteger, nullable=False),
        sa.Column("listed_at_us", sa.BigInteger),
    )


def _create_version_and_variant() -> None:
    op.create_table(
        "listing_version",
        sa.Column("listing_id", sa.String, sa.ForeignKey("listing.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("release_id", sa.String),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "listing_variant",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("listing_id", sa.String, sa.ForeignKey("listing.id"), nullable=False, index=True),
        sa.Column("variant_id", sa.String),
        sa.Column("format", sa.String, nullable=False),
        sa.Column("quant", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("min_memory_bytes", sa.BigInteger),
        sa.Column("output_tokens_per_s", sa.Float),
        sa.Column("first_token_ms", sa.Float),
        sa.Column("quality_bp", sa.Integer),
        sa.Column("measured_on", sa.String),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
    )


def _create_transition() -> None:
    op.create_table(
        "listing_transition",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("listing_id", sa.String, sa.ForeignKey("listing.id"), nullable=False, index=True),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("from_state", sa.String, nullable=False),
        sa.Column("to_state", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("acted_as", sa.String, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("prev_hash", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False, unique=True),
    )


def _create_change_marker() -> None:
    names = ("listings", "search", "search_epoch")
    marker = op.create_table(
        "change_marker",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(marker, [{"name": name, "version": 0} for name in names])


def _create_search_columns() -> None:
    op.create_table(
        "search_doc",
        sa.Column("doc", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("visible", sa.SmallInteger, nullable=False),
        sa.Column("facets", sa.Text, nullable=False),
        sa.Column("text_digest", sa.Text, nullable=False),
        sa.Column("popularity", sa.BigInteger, nullable=False),
        sa.Column("price_u_per_m", sa.BigInteger),
        sa.Column("output_tokens_per_s", sa.Double),
        sa.Column("quality_bp", sa.Integer),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "search_price",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("price_u_per_m", sa.BigInteger),
    )
    # SQLite counts only in a column that is INTEGER to the letter.
    counting = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "search_term",
        sa.Column("id", counting, primary_key=True),
        sa.Column("term", sa.Text, nullable=False, unique=True),
    )


def _create_search_text_sqlite() -> None:
    op.create_table(
        "search_text",
        sa.Column("doc", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    # `ascii` takes everything outside ASCII for a letter: we cut the tokens, it only splits at blanks.
    for where in ("name", "lead", "all"):
        op.execute(
            f"CREATE VIRTUAL TABLE search_fts_{where} USING fts5(words,"
            " content='', columnsize=0, tokenize='ascii')"
        )


def _create_search_text_postgresql() -> None:
    columns = ("name_words", "lead_words", "all_words")
    op.create_table(
        "search_text",
        sa.Column("doc", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, postgresql.TSVECTOR, nullable=False) for name in columns),
    )
    for name in columns:
        op.create_index(
            f"ix_search_text_{name}",
            "search_text",
            [name],
            postgresql_using="gin",
            postgresql_with={"fastupdate": "off"},
        )
