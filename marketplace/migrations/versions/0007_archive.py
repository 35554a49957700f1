"""Revision 0007_archive: sealed archives, the totals they leave, and deletes that only they allow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_archive"
down_revision = "0006_members"
branch_labels = None
depends_on = None

_SEQ = {"ledger_transfer": "seq", "usage_event": "seq", "ledger_batch": "last_seq"}
_KEPT = ("ledger_archive", "ledger_archived_lane", "ledger_rollup", "ledger_archived_tx")


def _text(name: str, **options: bool) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, **options)


def _number(name: str, **options: bool) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False, **options)


def upgrade() -> None:
    op.create_table(
        "ledger_archive",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        _text("name", unique=True),
        _text("sha256"),
        _text("previous"),
        _number("before_us"),
        _number("sealed_at_us"),
        _number("transfers"),
        _number("events"),
        _text("open"),
    )
    op.create_table(
        "ledger_archived_lane",
        sa.Column("archive_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("lane", sa.Integer(), primary_key=True, autoincrement=False),
        _number("last_n"),
        _number("last_seq"),
        _text("head"),
    )
    op.create_index("ledger_archived_lane_seq", "ledger_archived_lane", ["lane", "last_seq"])
    op.create_table(
        "ledger_rollup",
        sa.Column("archive_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("account_id", sa.Integer(), primary_key=True, autoincrement=False),
        _number("debits"),
        _number("credits"),
        _text("segments"),
    )
    op.create_table(
        "ledger_archived_tx",
        _text("tx", primary_key=True),
        sa.Column("archive_id", sa.Integer(), nullable=False),
    )
    op.create_index("usage_event_position", "usage_event", ["lane", "seq"], unique=True)
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_triggers()
    else:
        _postgresql_triggers()


def _sqlite_triggers() -> None:
    for table, seq in _SEQ.items():
        op.execute(f"DROP TRIGGER {table}_no_delete")
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN NOT EXISTS (SELECT 1 "
            f"FROM ledger_archived_lane WHERE lane = OLD.lane AND last_seq >= OLD.{seq}) "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
    for table in _KEPT:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def _postgresql_triggers() -> None:
    for table, seq in _SEQ.items():
        op.execute(
            f"CREATE FUNCTION {table}_may_go() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NOT EXISTS (SELECT 1 FROM ledger_archived_lane "
            f"WHERE lane = OLD.lane AND last_seq >= OLD.{seq}) THEN "
            "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END IF; RETURN OLD; END $$"
        )
        op.execute(f"DROP TRIGGER {table}_append_only ON {table}")
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_may_go()"
        )
    for table in _SEQ:
        _forbid(table, "UPDATE OR TRUNCATE")
    for table in _KEPT:
        _forbid(table, "UPDATE OR DELETE OR TRUNCATE")


def _forbid(table: str, verbs: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE {verbs} ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
