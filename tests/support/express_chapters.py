"""What the compiled part is asked by chance: each chapter raises where it and Python differ."""

from __future__ import annotations

import random
from collections.abc import Callable

from support.pay_cases import hold_chance_together
from support.sanitized import exactly

from marketplace.gateway.express import _core

exact = exactly()


def money(chance: random.Random) -> None:
    """Prices, ladders and calls that no office would make."""
    hold_chance_together(_core.Terms, chance)


CHAPTERS: dict[str, Callable[[random.Random], None]] = {"money": money}
