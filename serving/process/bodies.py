"""Bodies as checked structs: what msgspec finds wrong, as an error that names the field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from catalog.ground.errors import BadRequest

_PLACE = re.compile(r" - at `(?:key` in `)?\$\.?(?P<field>[^`]*)`$")
_MISSING = re.compile(r"required field `(?P<field>[^`]*)`")


@contextmanager
def named_faults() -> Iterator[None]:
    """Raise `BadRequest`, with the field at fault, for what decoding a body inside raises."""
    try:
        yield
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON.", code="invalid_json") from None


def _wrong_field(said: str) -> BadRequest:
    found = _PLACE.search(said) or _MISSING.search(said)
    field = found["field"] if found else None
    words = _PLACE.sub("", said).replace("Object missing", "The body lacks the")
    where = f" (in {field})." if field and "required" not in said else "."
    return BadRequest(words + where, code="invalid_type", param=field)


def check_one_prompt(prompt: object, messages: object) -> None:
    """Raise `BadRequest` unless exactly one of the two is given."""
    if (prompt is None) == (messages is None):
        raise BadRequest("Give either prompt or messages.", code="invalid_value", param="prompt")
