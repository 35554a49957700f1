"""A connection that breaks just after COMMIT: what was booked stays, and its writer hears nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from marketplace.ledger import writer as writer_module


class OperationalError(Exception):
    """What the drivers call it."""


def lose_an_answer(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None
) -> list[bool]:
    """Let the next COMMIT of a writer go unanswered, after `meanwhile`; the list is empty until then.

    Emptied, it happens again.
    """
    lost: list[bool] = []
    dialect_of = writer_module.dialect_of

    def breaking(connection: Any) -> Any:
        dialect: Any = dialect_of(connection)
        commit = dialect.commit

        def committed(*, durable: bool) -> None:
            commit(durable=durable)
            if not lost:
                lost.append(True)
                meanwhile()
                raise OperationalError("the server closed the connection unexpectedly")

        dialect.commit = committed
        return dialect

    monkeypatch.setattr(writer_module, "dialect_of", breaking)
    return lost
