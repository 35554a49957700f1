"""Where listings are served."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Text
from sqlmodel import Field, SQLModel


class Endpoint(SQLModel, table=True):
    """One process that answers for a listing: `url` without `/v1`, `model` is the name it knows.

    `api_key` is what the engine asks of us ('' = nothing). `state`: `up`, `draining` or `down`.
    """

    __tablename__ = "endpoint"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    listing: str = Field(sa_column=Column(Text, nullable=False, index=True))
    url: str = Field(sa_column=Column(Text, nullable=False))
    model: str = Field(sa_column=Column(Text, nullable=False))
    api_key: str = Field(default="", sa_column=Column(Text, nullable=False))
    weight: int = Field(default=1, sa_column=Column(Integer, nullable=False))
    priority: int = Field(default=0, sa_column=Column(Integer, nullable=False))
    state: str = Field(default="up", sa_column=Column(Text, nullable=False))
    updated_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
