"""What the directory keeps of a question that had no answer: the words, and nothing of who asked."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from catalog.ground.clock import SECOND_US
from catalog.ground.errors import NotFound
from marketplace.gateway.directory import KEYS, Directory
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


def test_what_was_nothing_may_begin_without_a_word(clock: list[int]) -> None:
    """The first price of a listing begins some day: no marker is raised at that instant."""
    nobody = Nobody()

    async def story() -> None:
        directory = Directory(nobody, lambda: clock[0])
        for _ in range(2):
            with pytest.raises(NotFound):
                await directory.listing("maker/soon")
        assert len(nobody.asked) == 1
        clock[0] += 6 * SECOND_US
        with pytest.raises(NotFound):
            await directory.listing("maker/soon")
        assert len(nobody.asked) == 2

    asyncio.run(story())


def test_the_first_news_may_be_younger_than_what_is_kept(clock: list[int]) -> None:
    """A key that was loaded before, and revoked meanwhile, would be kept until another one changes."""
    nobody = Nobody()

    async def story() -> None:
        directory = Directory(nobody, lambda: clock[0])
        for asked in (1, 2, 2):
            with pytest.raises(NotFound):
                await directory.key("tm-secret")
            assert len(nobody.asked) == asked
            directory.notice({KEYS: 7})

    asyncio.run(story())


@pytest.fixture
def clock() -> list[int]:
    return [1_800_000_000 * SECOND_US]
