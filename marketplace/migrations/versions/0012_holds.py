"""Revision 0012_holds: on SQLite, open holds have no index by their expiry.

There are only as many as calls are running, so the sweeper reads them all, and the index cost every call
two changes of a page. PostgreSQL keeps it: what has been deleted there lies about until it is vacuumed.
"""

from __future__ import annotations

from alembic import op

revision = "0012_holds"
down_revision = "0011_speaks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_ledger_hold_expires_at_us", table_name="ledger_hold")
