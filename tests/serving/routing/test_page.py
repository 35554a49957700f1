"""The page on routing names what there is."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec

from serving.routing import Breaker, Choice, Failure, Wish

PAGE = (Path(__file__).parents[3] / "docs/routing.md").read_text("utf-8")


def test_every_field_of_a_wish_and_every_reason_is_on_the_page() -> None:
    words = [field.name for field in msgspec.structs.fields(Wish)]
    words += get_args(Failure)
    words += [line.split("  ")[0].split("[")[0].split(":")[0] for line in _reasons()]
    assert len(words) > 20
    assert [word for word in words if f"`{word}" not in PAGE] == []


def _reasons() -> list[str]:
    lines = (Choice.__doc__ or "").splitlines()
    return [line.strip() for line in lines if line.startswith(" " * 8)]


def test_the_page_tells_the_defaults() -> None:
    assert Breaker() == (3, 30.0, 0.2, 1.0, 60.0, 120.0), "docs/routing.md tells these in words"
