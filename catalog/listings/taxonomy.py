"""The shelves: verticals, tasks and languages, each with a Chinese and an English name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from catalog.ground.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Term:
    """One shelf. `also` are other words that shoppers use for it."""

    id: str
    zh: str
    en: str
    also: str = ""

    @property
    def words(self) -> str:
        """Everything by which it is found."""
        return f"{self.zh} {self.en} {self.also}".strip()


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Terms by id, in the order in which they are shown."""

    verticals: Mapping[str, Term]
    tasks: Mapping[str, Term]
    languages: Mapping[str, Term]


@cache
def taxonomy() -> Taxonomy:
    """Return the taxonomy that is shipped beside this file."""
    document = tomllib.loads(Path(__file__).with_name("taxonomy.toml").read_text("utf-8"))
    kinds = {
        kind: {key: Term(key, **fields) for key, fields in document[kind].items()}
        for kind in ("verticals", "tasks", "languages")
    }
    return Taxonomy(**kinds)


def require(field: str, known: Mapping[str, Term], given: list[str]) -> list[str]:
    """Return `given` without repeats; raise `BadRequest` for an id that is not on the shelf."""
    unknown = [term for term in given if term not in known]
    if unknown:
        raise BadRequest(
            f"{', '.join(map(repr, unknown))} is not one of the {field} that we know.",
            param=field,
            rule="listing.taxonomy",
            remedy=f"Use one of: {', '.join(known)}.",
        )
    return list(dict.fromkeys(given))
