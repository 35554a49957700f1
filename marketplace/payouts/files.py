"""Payment files: what a bank is asked to pay, as CSV and as JSON, with control sums."""

from __future__ import annotations

import csv
import hashlib
import io
from typing import Any

from sqlmodel import Session, col, select

from catalog.ground.errors import Conflict, NotFound
from catalog.ground.units import YUAN_U
from marketplace.ledger.accounts import take_control
from marketplace.members.tables import Organisation
from marketplace.payouts.service import APPROVED, mark_exported, payouts
from marketplace.payouts.tables import Payout, PayoutFile

COLUMNS = ("payout", "organisation", "name", "uscc", "amount_yuan", "amount_u", "approved_by")


def export(session: Session, file_id: str, by: str, at_us: int) -> PayoutFile:
    """Put every approved payout into one file under the client's id; the same id again returns it."""
    take_control(session)
    known = session.get(PayoutFile, file_id)
    if known is not None:
        return known
    ready = payouts(session, state=APPROVED)
    if not ready:
        raise Conflict("No payout is approved and waiting.", rule="payout.nothing")
    row = PayoutFile(
        id=file_id,
        count=len(ready),
        total_u=sum(each.amount_u for each in ready),
        sha256="",
        by=by,
        at_us=at_us,
    )
    for each in ready:
        mark_exported(session, each.id, file_id)
    row.sha256 = hashlib.sha256(as_csv(session, file_id)).hexdigest()
    session.add(row)
    session.flush()
    return row


def payment_file(session: Session, file_id: str) -> PayoutFile:
    """Return a payment file's row; `NotFound` otherwise."""
    found = session.get(PayoutFile, file_id)
    if found is None:
        raise NotFound(f"There is no payment file {file_id!r}.", rule="payout_file.exists")
    return found


def lines(session: Session, file_id: str) -> list[dict[str, Any]]:
    """Return the file's payouts, in the order of their ids."""
    found = session.exec(
        select(Payout).where(Payout.file_id == file_id).order_by(col(Payout.id))
    ).all()
    return [_line(session, row) for row in found]


def as_csv(session: Session, file_id: str) -> bytes:
    """Return the file's CSV (UTF-8 with a byte order mark, for spreadsheets), control sums last."""
    rows = lines(session, file_id)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    total_u = sum(row["amount_u"] for row in rows)
    writer.writerow(["TOTAL", len(rows), "", "", _yuan(total_u), total_u, ""])
    return out.getvalue().encode("utf-8-sig")


def as_json(session: Session, file_id: str) -> dict[str, Any]:
    """Return the file as data: its payouts, their number and sum, and the sha256 of the CSV."""
    row = payment_file(session, file_id)
    return {
        "file": row.id,
        "count": row.count,
        "total_u": row.total_u,
        "total_yuan": _yuan(row.total_u),
        "csv_sha256": row.sha256,
        "payouts": lines(session, file_id),
    }


def _line(session: Session, row: Payout) -> dict[str, Any]:
    org = session.get_one(Organisation, row.org_id)
    return {
        "payout": row.id,
        "organisation": org.slug,
        "name": org.name,
        "uscc": org.uscc or "",
        "amount_yuan": _yuan(row.amount_u),
        "amount_u": row.amount_u,
        "approved_by": row.approved_by,
    }


def _yuan(amount_u: int) -> str:
    return f"{amount_u // YUAN_U}.{amount_u % YUAN_U:06d}"


def _cell(value: Any) -> Any:
    """Keep a spreadsheet from reading a name as a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
