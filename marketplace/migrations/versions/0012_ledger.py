"""Revision 0012_ledger: what a call costs the ledger on SQLite.

Open holds have no index by their expiry: there are only as many as calls are running, so the sweeper reads
them all, and the index cost every call two changes of a page. PostgreSQL keeps it: what has been deleted
there lies about until it is vacuumed.

A lane follows its last batch by itself, which saves every transaction a statement. On PostgreSQL both are
one statement already.
"""

from __future__ import annotations

from alembic import op

revision = "0012_ledger"
down_revision = "0011_speaks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_ledger_hold_expires_at_us", table_name="ledger_hold")
        op.execute(
            "CREATE TRIGGER ledger_batch_head AFTER INSERT ON ledger_batch BEGIN "
            "UPDATE ledger_lane SET next_seq = NEW.last_seq + 1, next_batch = NEW.n + 1, "
            "head = NEW.sha256 WHERE id = NEW.lane; END"
        )
