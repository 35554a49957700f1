"""Published voucher schemes, written as programmes: examples to copy from, never in force as they are.

Lives here: one JSON file per scheme, each with its source, how well that source was read (`P`: the text
itself, `S`: a summary) and what it leaves open (`unresolved`; illustrations are named as such there).

May import: `marketplace.vouchers.rules`.
"""

from __future__ import annotations

from importlib.resources import files

from catalog.ground.errors import NotFound
from marketplace.vouchers.rules import Programme, load


def codes() -> tuple[str, ...]:
    """Return the codes of all examples, sorted."""
    names = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def example(code: str) -> Programme:
    """Return an example programme; NotFound if there is none of that code."""
    if code not in codes():
        raise NotFound(
            f"There is no example programme {code!r}.", remedy=f"There are {', '.join(codes())}."
        )
    return load((files(__name__) / f"{code}.json").read_bytes())
