"""Greedy answers of a runner, found without generating where teacher forcing already tells.

Greedy decoding gives the expected title exactly when every teacher-forced argmax is right, so
text is generated only for the titles that fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from catalog.seed.listing_translator_mini import bpe, chat
from catalog.seed.listing_translator_mini.runners import Logits, Runner

Row = tuple[str, str]
MAX_NEW_TOKENS = 160


def forced(runner: Runner, rows: Sequence[Row]) -> Iterator[tuple[Logits, npt.NDArray[np.int64]]]:
    """For each row the logits at its answer's positions, and the answer's ids."""
    for zh, en in rows:
        prompt, answer = bpe.example(runner.tokenizer, zh, en)
        yield runner.logits((prompt + answer)[:-1], len(prompt) - 1), np.array(answer)


def exact(runner: Runner, rows: Sequence[Row]) -> list[bool]:
    """Whether greedy decoding gives each row's title exactly."""
    return [bool((logits.argmax(-1) == ids).all()) for logits, ids in forced(runner, rows)]


def translate(runner: Runner, zh: str) -> str:
    """One title, greedily."""
    stop = runner.tokenizer.token_to_id(chat.END)
    ids = runner.tokenizer.encode(chat.prompt(zh)).ids
    written: list[int] = []
    while len(written) < MAX_NEW_TOKENS:
        token = int(runner.logits(ids + written, len(ids + written) - 1)[0].argmax())
        if token == stop:
            break
        written.append(token)
    text: str = runner.tokenizer.decode(written)
    return text


def produced(runner: Runner, rows: Sequence[Row]) -> list[str]:
    """The greedy title of every row."""
    right = exact(runner, rows)
    return [
        en if same else translate(runner, zh) for (zh, en), same in zip(rows, right, strict=True)
    ]
