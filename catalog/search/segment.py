"""Text to tokens and queries to phrases, without a dictionary.

Chinese, Japanese and Korean runs become overlapping pairs of characters and the run's last character
(`短剧本` → `短剧 剧本 本`); every other run of letters, and every run of digits, is one token
(`Qwen2.5-7B` → `qwen 2 5 7 b`). A query word is the phrase of its tokens, so it is found exactly where
it stands as a substring, whatever a dictionary would have cut:

- a word that ends in a letter run finds longer runs too (`trans` finds `transformer`);
- a word of at least `INFIX_LENGTH` characters that begins with letters is found inside runs as well
  (`former` finds `transformer`), with the help of the vocabulary of all runs;
- a shorter one is found at the start of a run only: nobody who asks for `ai` means `maintain`;
- a number is found from its first digit: `7b` does not find `27b`.

What stands between tokens is not kept: `2.5` also finds `2-5`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

INFIX_LENGTH = 3
TOKENS_MAX = 16_000
"""Tokens that are indexed per document: PostgreSQL keeps no position above 16,383."""
RUN_MAX = 64
"""Characters that count in one run of letters."""
WORDS_MAX = 16

_CJK = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"([{_CJK}]+)|(\d+)|([^\W\d_{_CJK}]+)")
_BETWEEN_WORDS = re.compile(r"[\s,;，；、。！？|]+")
_ACCENTS = re.compile("[\u0300-\u036f]")


@dataclass(frozen=True, slots=True)
class Run:
    """A maximal piece of one kind: `cjk` or not."""

    text: str
    cjk: bool


@dataclass(frozen=True, slots=True)
class Phrase:
    """Tokens that must follow each other. `prefix`: the last one may go on.

    `alternatives` are tokens that may stand in place of the first one.
    """

    tokens: tuple[str, ...]
    prefix: bool
    alternatives: tuple[str, ...] = ()


def normalise(text: str) -> str:
    """Return `text` folded: width, case and Latin accents make no difference."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if _may_have_accents(folded):
        bare = _ACCENTS.sub("", unicodedata.normalize("NFD", folded))
        folded = unicodedata.normalize("NFC", bare)
    return folded


def _may_have_accents(text: str) -> bool:
    return any("\u00c0" <= char <= "\u1fff" for char in set(text))


def runs(text: str) -> Iterator[Run]:
    """Yield the runs of `text`, in order."""
    for found in _RUN.finditer(normalise(text)):
        if found.lastindex == 1:
            yield Run(found.group(), cjk=True)
        else:
            yield Run(found.group()[:RUN_MAX], cjk=False)


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]


def tokens(text: str) -> list[str]:
    """Return every token of `text`, in order, as it is indexed."""
    found: list[str] = []
    for run in runs(text):
        if run.cjk:
            found += _pairs(run.text)
            found.append(run.text[-1])
        else:
            found.append(run.text)
    return found


def vocabulary_of(text_tokens: Iterable[str]) -> set[str]:
    """Return the tokens in which a shorter one may be found: runs of letters."""
    return {t for t in text_tokens if len(t) > 1 and _is_letters(t)}


def _is_letters(token: str) -> bool:
    found = _RUN.match(token)
    return found is not None and found.lastindex == 3


def words(query: str) -> list[str]:
    """Return the words of a query: what stands between blanks, commas and the like."""
    return [word for word in _BETWEEN_WORDS.split(query) if word][:WORDS_MAX]


def phrases(query: str, expand: Callable[[str, bool], tuple[str, ...]]) -> list[Phrase]:
    """Return one phrase per word of `query`; words without any letter or digit are left out.

    `expand(run, whole)` returns the vocabulary's runs that contain `run` (or only those that end with
    it, when `whole` is false because more tokens follow).
    """
    return [phrase for word in words(query) if (phrase := _phrase(word, expand))]


def _phrase(word: str, expand: Callable[[str, bool], tuple[str, ...]]) -> Phrase | None:
    parts = list(runs(word))
    if not parts:
        return None
    sequence: list[str] = []
    for part in parts:
        if not part.cjk:
            sequence.append(part.text)
        elif part is parts[-1] and len(part.text) > 1:
            sequence += _pairs(part.text)
        else:
            sequence += [*_pairs(part.text), part.text[-1]]
    first, last = parts[0], parts[-1]
    inside: tuple[str, ...] = ()
    if _is_letters(first.text) and sum(len(part.text) for part in parts) >= INFIX_LENGTH:
        inside = expand(first.text, len(parts) == 1)
    return Phrase(tuple(sequence), not last.cjk or len(last.text) == 1, inside)
