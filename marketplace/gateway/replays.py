"""The same answer for the same `Idempotency-Key`: what a worker does of it (`idempotency` has the rules).

Answers are kept by the office. They are stored before the settlement, so whoever is told that a call was
settled finds its answer; one whose settlement never came is not given out, because nobody paid for it.
"""

from __future__ import annotations

import logging
from typing import Protocol

import msgspec

from catalog.ground.errors import TokenMartError
from marketplace.gateway import idempotency
from marketplace.gateway.door import Connection, Request
from marketplace.gateway.idempotency import Answer
from marketplace.gateway.request import named
from marketplace.ledger.holds import MOST_TRIES, retried

log = logging.getLogger(__name__)

LARGEST_KEPT = 4 * 1024 * 1024
"""Bytes of an answer that is kept; a longer one is served and cannot be had again."""


class Asked(msgspec.Struct, frozen=True):
    """Which generation, whose, and what was asked."""

    generation_id: str
    org_id: str
    request_sha256: str
    at_us: int


class Kept(msgspec.Struct, frozen=True):
    """An answer to keep."""

    asked: Asked
    content_type: str
    body: bytes


class Tried(msgspec.Struct, frozen=True):
    """What the ledger knows of a generation: an open hold, a settlement, and how many holds there were."""

    open: bool
    settled: bool
    holds: int


class Archive(Protocol):
    """The office, where answers are kept."""

    async def recall(self, asked: Asked) -> Answer | None: ...
    async def remember(self, kept: Kept) -> None: ...
    async def tried(self, generation_id: str) -> Tried: ...


class Replay:
    """One request that may have come before."""

    def __init__(self, archive: Archive, org_id: str, request: Request) -> None:
        key = request.headers[idempotency.HEADER]
        self.generation_id = idempotency.generation_id(org_id, key)
        self._archive = archive
        self._org_id = org_id
        self._sha256 = idempotency.fingerprint(request.path, request.body)
        self._pieces: list[bytes] = []
        self._size = 0

    async def answered(self, connection: Connection, at_us: int) -> bool:
        """Give the answer of the first call, if it was settled and is kept."""
        answer = await self._archive.recall(self._asked(at_us))
        if answer is None:
            return False
        headers = [
            (b"content-type", answer.content_type.encode()),
            *named(self.generation_id),
            (b"idempotent-replayed", b"true"),
        ]
        connection.respond(answer.status, headers, answer.body)
        return True

    async def next_try(self, at_us: int) -> str:
        """Return the name for the next hold, '' when the first try has been settled.

        Raises `Conflict` while it is still running.
        """
        tried = await self._archive.tried(self.generation_id)
        if tried.settled:
            return ""
        if tried.open:
            raise idempotency.still_running()
        if tried.holds >= MOST_TRIES:
            raise idempotency.too_often(MOST_TRIES)
        return retried(self.generation_id, tried.holds + 1)

    def saw(self, piece: bytes) -> None:
        """Note what is sent of a stream."""
        self._size += len(piece)
        if self._size <= LARGEST_KEPT:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    async def keep(self, content_type: str, last: bytes, at_us: int) -> None:
        """Store the answer, before it is settled. One that cannot be stored is served all the same."""
        if self._size + len(last) > LARGEST_KEPT:
            return
        body = b"".join([*self._pieces, last])
        try:
            await self._archive.remember(Kept(self._asked(at_us), content_type, body))
        except TokenMartError as error:
            log.warning("the answer of %s is not kept: %s", self.generation_id, error)

    def _asked(self, at_us: int) -> Asked:
        return Asked(self.generation_id, self._org_id, self._sha256, at_us)
