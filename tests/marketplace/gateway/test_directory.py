"""What the directory keeps of a question that had no answer: the words, and nothing of who asked."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from catalog.ground.errors import NotFound
from marketplace.gateway.directory import Directory
from marketplace.gateway.records import model_not_found


class Nobody:
    """A database without listings."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def listing(self, slug: str) -> Any:
        self.asked.append(slug)
        raise model_not_found(slug)

    key = ladder = caps = listing


class Body:
    """A request's body, which may be megabytes."""


def test_a_name_that_is_nothing_keeps_nothing_of_who_asked() -> None:
    nobody = Nobody()
    bodies: list[weakref.ref[Body]] = []
    told: list[str] = []

    async def ask(directory: Directory) -> None:
        body = Body()
        bodies.append(weakref.ref(body))
        try:
            await directory.listing("maker/none")
        except NotFound as error:
            told.append(error.message)

    async def story() -> None:
        directory = Directory(nobody)
        await asyncio.gather(*(ask(directory) for _ in range(3)))
        await ask(directory)
        gc.collect()
        assert [body() for body in bodies] == [None] * 4

    asyncio.run(story())
    assert nobody.asked == ["maker/none"]
    assert told == [model_not_found("maker/none").message] * 4
