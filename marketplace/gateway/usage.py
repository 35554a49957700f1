"""Read usage out of what an engine answered."""

from __future__ import annotations

from typing import Any

import msgspec

from catalog.ground.errors import UpstreamFailed

Found = tuple[dict[str, Any] | None, str]
"""A usage object and its text as the engine wrote it; (None, '') when there is none."""
NOTHING: Found = (None, "")


class _Carrier(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


_carrier = msgspec.json.Decoder(_Carrier)
_any = msgspec.json.Decoder()


def usage_of(document: bytes) -> Found:
    """Return the `usage` of a JSON answer or of a `data:` event.

    Raises `UpstreamFailed` when it is not JSON: then nobody can say what was used.
    """
    start = 5 if document.startswith(b"data:") else 0
    try:
        raw = bytes(_carrier.decode(memoryview(document)[start:] if start else document).usage)
        found = _any.decode(raw)
        return (found, raw.decode()) if isinstance(found, dict) else NOTHING
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UpstreamFailed("The engine's answer is not JSON; nothing was charged.") from error
