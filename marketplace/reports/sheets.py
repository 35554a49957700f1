"""Sheets: rows with names, exported as CSV, JSON or a workbook. Amounts stay whole micro-yuan."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""What XML, and so a workbook, has no way to write."""


@dataclass(frozen=True)
class Sheet:
    """One table. `columns` are the names of every row, in order."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Row]

    def csv(self) -> bytes:
        """Return the sheet as CSV (UTF-8, CRLF): the same rows are always the same bytes."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, extrasaction="raise")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: _plain(row[name]) for name in self.columns})
        return text.getvalue().encode()


@dataclass(frozen=True)
class Report:
    """A cover (names and values) and its sheets; the first sheet is the one that the others sum up."""

    title: str
    cover: Mapping[str, Any]
    sheets: Sequence[Sheet] = field(default=())

    def json(self) -> bytes:
        """Return everything as JSON."""
        told = {
            "title": self.title,
            "cover": self.cover,
            "sheets": {sheet.name: [dict(row) for row in sheet.rows] for sheet in self.sheets},
        }
        return json.dumps(told, ensure_ascii=False, indent=2).encode()


def sheet(name: str, rows: Sequence[Row], columns: Sequence[str] = ()) -> Sheet:
    """Return a sheet with the columns of its first row, unless they are given."""
    return Sheet(name, tuple(columns or (rows[0] if rows else ())), rows)


def write(report: Report, folder: Path, name: str) -> dict[str, str]:
    """Write `name.xlsx`, `name.json` and a CSV for each sheet; returns the sha256 of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{name}-{part.name}.csv": part.csv() for part in report.sheets}
    files[f"{name}.json"] = report.json()
    files[f"{name}.xlsx"] = workbook(report)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}


def workbook(report: Report) -> bytes:
    """Return an Excel workbook: the cover first, then a page for each sheet.

    Cells hold whole micro-yuan as numbers up to 15 digits, which is what a spreadsheet keeps exactly,
    and as text above that. Text never becomes a formula.
    """
    from openpyxl import Workbook
    from openpyxl.styles import Font

    book = Workbook()
    page = book.active
    page.title = "cover"
    page.append([report.title])
    page["A1"].font = Font(bold=True)
    for name, value in report.cover.items():
        page.append([name, _cell(value)])
    for part in report.sheets:
        page = book.create_sheet(part.name[:31])
        page.append(list(part.columns))
        for cell in page[1]:
            cell.font = Font(bold=True)
        page.freeze_panes = "A2"
        for row in part.rows:
            page.append([_cell(row[name]) for name in part.columns])
    for page in book.worksheets:
        for cells in page.iter_rows():
            for cell in cells:
                if cell.data_type == "f":
                    cell.data_type = "s"
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _plain(value: Any) -> str | int:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A cell that begins like a formula would be run by the spreadsheet that opens the file; a decimal
    # below 0 is none.
    harmless = text[:1] not in ("=", "+", "-", "@", "\t", "\r") or _DECIMAL.fullmatch(text)
    return text if harmless else "'" + text


def _cell(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**15 else str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _CONTROL.sub("\ufffd", text)
