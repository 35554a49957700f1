"""Reading a client's JSON: every refusal names the field, and says what to send instead."""

from __future__ import annotations

from typing import Any, TypeVar

from catalog.ground.errors import BadRequest

Json = dict[str, Any]
Kind = TypeVar("Kind", str, int, bool, dict[str, Any], list[Any])

_WORDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def wrong(param: str, what: str) -> BadRequest:
    """Return the error for a field whose value will not do."""
    return BadRequest(f"{param}: {what}", code="invalid_value", param=param)


def untranslatable(param: str, what: str, remedy: str) -> BadRequest:
    """Return the error for a field that a chat completion cannot express."""
    return BadRequest(f"{param}: {what}", code="unsupported_parameter", param=param, remedy=remedy)


def checked(value: object, kind: type[Kind], param: str) -> Kind:
    """Return `value` when it is a `kind`; `BadRequest` names `param` otherwise."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRequest(f"{param}: {_WORDS[kind]} is needed.", code="invalid_type", param=param)
    return value


def needed(holder: Json, name: str, kind: type[Kind], at: str = "") -> Kind:
    """Return a field that must be there; `at` is the path of its holder, with a dot at its end."""
    return checked(holder.get(name), kind, f"{at}{name}")


def optional(holder: Json, name: str, kind: type[Kind], at: str = "") -> Kind | None:
    """Return a field that may be absent or null."""
    value = holder.get(name)
    return None if value is None else checked(value, kind, f"{at}{name}")


def records(value: object, param: str) -> list[tuple[str, Json]]:
    """Return the objects of a list, each with its own path: `input[3]`."""
    found = checked(value, list, param)
    return [
        (f"{param}[{place}]", checked(item, dict, f"{param}[{place}]"))
        for place, item in enumerate(found)
    ]


def token_limit(body: Json, name: str) -> int | None:
    """Return a bound on output tokens, None when the client set none."""
    limit = optional(body, name, int)
    if limit is not None and limit < 1:
        raise wrong(name, "at least 1 token is needed.")
    return limit


def present(body: Json, names: tuple[str, ...]) -> Json:
    """Return the fields among `names` that are there and not null, as the client wrote them."""
    return {name: body[name] for name in names if body.get(name) is not None}
