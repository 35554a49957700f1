"""The model card: YAML between two `---` lines at the top of README.md, the rest is for people.

Written by strangers: parsed with the safe loader, without aliases (a kilobyte of them can unfold into
gigabytes), within a size limit, and turned into plain JSON values.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

MAX_FRONT_MATTER_BYTES = 64 * 1024
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


class CardError(ValueError):
    """The front matter cannot be read; the message says why."""


class _NoAliases(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise CardError("aliases (*name) are not allowed in a model card")
        return super().compose_node(parent, index)


def _load(source: str) -> Any:
    loader = _NoAliases(source)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def parse(text: str) -> dict[str, Any]:
    """Return the front matter as JSON values, `{}` when there is none; `CardError` when it is bad."""
    found = _FRONT_MATTER.match(text)
    if found is None:
        return {}
    source = found.group(1)
    if len(source.encode()) > MAX_FRONT_MATTER_BYTES:
        raise CardError(f"the front matter is larger than {MAX_FRONT_MATTER_BYTES} bytes")
    try:
        document = _load(source)
    except yaml.YAMLError as error:
        raise CardError(str(error)) from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise CardError(f"the front matter cannot be read: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise CardError("the front matter must be a mapping")
    try:
        card: dict[str, Any] = plain(document)
    except (ValueError, RecursionError):
        raise CardError("the front matter cannot be written as JSON") from None
    return card


def plain(document: Any) -> Any:
    """Return a document as JSON that every database and client takes: NaN and infinity become null,
    halves of characters `?`. Raises `ValueError` or `RecursionError` where that cannot be.
    """
    escaped = json.dumps(document, default=str, skipkeys=True)
    joined = json.loads(escaped, parse_constant=lambda _word: None)
    return json.loads(json.dumps(joined, ensure_ascii=False).encode(errors="replace"))


def texts(value: Any) -> list[str]:
    """Return a card field that may be one text or a list of them as a list."""
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
