"""The word pairs of ``words/*.toml`` as plain, immutable data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "words"

SLOTS = (
    "audience",
    "style",
    "property",
    "pattern",
    "material",
    "cut",
    "extra",
    "season",
    "scene",
)
"""The modifier slots, in the order they take in an English title."""


@dataclass(frozen=True)
class Word:
    """One English rendering and every Chinese spelling that means it."""

    en: str
    zh: tuple[str, ...]


@dataclass(frozen=True)
class Category:
    """Products that accept the same modifiers, sizes and ways of counting."""

    name: str
    products: tuple[Word, ...]
    modifiers: dict[str, tuple[Word, ...]]
    classifiers: tuple[str, ...]
    sizes: tuple[str, ...]
    quantities: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """Everything the grammar may say."""

    categories: tuple[Category, ...]
    colors: tuple[Word, ...]
    dropped: tuple[str, ...]

    def words(self) -> list[Word]:
        """Every distinct word pair: products, modifiers, colours."""
        found = {word.en + "|" + word.zh[0]: word for word in self.colors}
        for category in self.categories:
            for word in category.products:
                found[word.en + "|" + word.zh[0]] = word
            for group in category.modifiers.values():
                found.update({word.en + "|" + word.zh[0]: word for word in group})
        return list(found.values())


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


def _words(table: dict[str, str]) -> dict[str, Word]:
    return {en: Word(en, tuple(zh.split())) for en, zh in table.items()}


@cache
def load() -> Lexicon:
    """Read the folder once; a word that a group names but nobody defines raises KeyError."""
    modifiers = _read("modifiers.toml")
    slots = {slot: _words(modifiers[slot]) for slot in SLOTS}
    groups = _read("groups.toml")

    def group(slot: str, name: str) -> tuple[Word, ...]:
        return () if name == "none" else tuple(slots[slot][en] for en in groups[slot][name])

    categories = [
        Category(
            name=name,
            products=tuple(_words(table["products"]).values()),
            modifiers={slot: group(slot, table["groups"][slot]) for slot in SLOTS},
            classifiers=tuple(table["classifiers"].split()),
            sizes=tuple(table["sizes"]),
            quantities=tuple(table["quantities"]),
        )
        for path in sorted(FOLDER.glob("products_*.toml"))
        for name, table in _read(path.name).items()
    ]
    return Lexicon(
        categories=tuple(categories),
        colors=tuple(_words(modifiers["color"]).values()),
        dropped=tuple(modifiers["dropped"]["words"].split()),
    )
