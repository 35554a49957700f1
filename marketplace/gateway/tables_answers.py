"""Answers that are kept for callers who may ask again."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Text
from sqlmodel import Field, SQLModel


class GatewayAnswer(SQLModel, table=True):
    """What one call was answered: `id` is its generation's, `body` as it was sent.

    It holds what a model said, so it is kept only where the caller sent an `Idempotency-Key`, and only
    until `expires_at_us`. `request_sha256` is of the path and the body (`idempotency.fingerprint`).
    """

    __tablename__ = "gateway_answer"

    id: str = Field(sa_column=Column(Text, primary_key=True))
    org_id: str = Field(sa_column=Column(Text, nullable=False))
    request_sha256: str = Field(sa_column=Column(Text, nullable=False))
    status: int = Field(sa_column=Column(Integer, nullable=False))
    content_type: str = Field(sa_column=Column(Text, nullable=False))
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_at_us: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
