"""Members with roles, dated facts with evidence, links between parties, projects, price drafts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_members"
down_revision = "0005_gateway"
branch_labels = None
depends_on = None

_FROZEN = (
    "id",
    "listing",
    "effective_from_us",
    "components",
    "sha256",
    "author",
    "reason",
    "created_at_us",
)


def upgrade() -> None:
    op.add_column("organisation", sa.Column("verified_at_us", sa.BigInteger(), nullable=True))
    op.add_column(
        "organisation", sa.Column("verified_by", sa.Text(), nullable=False, server_default="")
    )
    _create_membership()
    _create_org_fact()
    _create_party_link()
    _create_project()
    _create_price_draft()
    _freeze_price_versions()


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, primary_key=primary_key)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _create_membership() -> None:
    op.create_table(
        "membership",
        _text("id", primary_key=True),
        _text("org_id"),
        _text("member"),
        _text("role"),
        _text("added_by"),
        _instant("added_at_us"),
        _text("removed_by"),
        _instant("removed_at_us", nullable=True),
        sa.CheckConstraint(
            "role IN ('owner', 'admin', 'dev', 'finance', 'auditor')", name="role_known"
        ),
    )
    current = sa.text("removed_at_us IS NULL")
    op.create_index(
        "membership_current",
        "membership",
        ["org_id", "member"],
        unique=True,
        sqlite_where=current,
        postgresql_where=current,
    )


def _create_org_fact() -> None:
    op.create_table(
        "org_fact",
        _text("id", primary_key=True),
        _text("org_id"),
        _text("listing"),
        _text("key"),
        _text("value"),
        _instant("valid_from_us"),
        _instant("valid_to_us", nullable=True),
        _text("evidence_sha256"),
        _text("evidence_name"),
        _text("entered_by"),
        _instant("entered_at_us"),
        _text("verified_by"),
        _instant("verified_at_us", nullable=True),
        _text("ended_by"),
        sa.CheckConstraint("verified_by <> entered_by", name="four_eyes"),
        sa.CheckConstraint("valid_to_us IS NULL OR valid_to_us >= valid_from_us", name="period"),
    )
    op.create_index("org_fact_org", "org_fact", ["org_id", "key"])


def _create_party_link() -> None:
    op.create_table(
        "party_link",
        _text("id", primary_key=True),
        _text("first"),
        _text("second"),
        _text("kind"),
        sa.Column("holding_bp", sa.Integer(), nullable=False),
        _instant("valid_from_us"),
        _instant("valid_to_us", nullable=True),
        _text("evidence_sha256"),
        _text("evidence_name"),
        _text("entered_by"),
        _instant("entered_at_us"),
    )


def _create_project() -> None:
    op.create_table(
        "project",
        _text("id", primary_key=True),
        _text("org_id"),
        _text("name"),
        _instant("created_at_us"),
        sa.UniqueConstraint("org_id", "name", name="project_name"),
    )


def _create_price_draft() -> None:
    op.create_table(
        "price_draft",
        _text("id", primary_key=True),
        _text("listing"),
        _text("components"),
        _text("sha256"),
        _text("source"),
        _text("author"),
        _instant("created_at_us"),
        sa.Column("version_id", sa.Text(), nullable=True),
    )
    op.create_index("price_draft_listing", "price_draft", ["listing"])


def _freeze_price_versions() -> None:
    """A published price is only ever ended, once, and never taken away."""
    changed = {
        "sqlite": " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in _FROZEN),
        "postgresql": " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in _FROZEN),
    }[op.get_bind().dialect.name]
    ended = f"OLD.effective_to_us IS NOT NULL OR {changed}"
    words = "a published price is never changed"
    if op.get_bind().dialect.name == "sqlite":
        for verb, when in (("UPDATE", f"WHEN {ended} "), ("DELETE", "")):
            op.execute(
                f"CREATE TRIGGER price_version_no_{verb.lower()} BEFORE {verb} ON price_version "
                f"{when}BEGIN SELECT RAISE(ABORT, '{words}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION freeze_price_version() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF TG_OP = 'UPDATE' THEN IF NOT ({ended}) THEN RETURN NEW; END IF; END IF; "
        f"RAISE EXCEPTION '{words}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER price_version_frozen BEFORE UPDATE OR DELETE ON price_version "
        "FOR EACH ROW EXECUTE FUNCTION freeze_price_version()"
    )
