"""Revision 0014_references: numbers of contracts and invoices as they are compared from now on.

What was kept as somebody typed it would not be found again, not even typed the same way.
"""

from __future__ import annotations

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0014_references"
down_revision = "0013_presence"
branch_labels = None
depends_on = None


def _reference(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).upper().split())


def upgrade() -> None:
    connection = op.get_bind()
    applications = connection.execute(sa.text("SELECT id, contract_ref FROM application"))
    for key, number in applications.all():
        if _reference(number) != number:
            _rename(connection, key, number)
    invoices = connection.execute(
        sa.text("SELECT id, provider, number, state FROM contract_invoice ORDER BY presented_at_us")
    ).all()
    live = {(provider, number) for _, provider, number, state in invoices if state != "refused"}
    for key, provider, number, state in invoices:
        kept = _reference(number)
        if kept == number:
            continue
        if state != "refused":
            # Where one invoice was taken twice, only one can have the number.
            if (provider, kept) in live:
                continue
            live.add((provider, kept))
        connection.execute(
            sa.text("UPDATE contract_invoice SET number = :kept WHERE id = :id"),
            {"kept": kept, "id": key},
        )


def _rename(connection: sa.Connection, application_id: str, number: str) -> None:
    """Rename an application's contract, and what counts against its caps."""
    kept = _reference(number)
    connection.execute(
        sa.text("UPDATE application SET contract_ref = :kept WHERE id = :id"),
        {"kept": kept, "id": application_id},
    )
    connection.execute(
        sa.text(
            "UPDATE voucher_cap_use SET key = replace(key, :old, :new) WHERE grant_id IN "
            "(SELECT id FROM voucher_grant WHERE application_id = :id)"
        ),
        {"old": f"/contract/{number}/", "new": f"/contract/{kept}/", "id": application_id},
    )
