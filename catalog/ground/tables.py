"""The one table of the ground floor; `marker` reads and writes it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Text
from sqlmodel import Field, SQLModel


class ChangeMarker(SQLModel, table=True):
    """Counts changes by name, so that whoever caches can ask cheaply whether it is out of date."""

    __tablename__ = "change_marker"

    name: str = Field(sa_column=Column(Text, primary_key=True))
    version: int = Field(sa_type=BigInteger)
