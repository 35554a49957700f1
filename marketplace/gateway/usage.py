"""Read usage out of what an engine answered."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from catalog.ground.errors import UpstreamFailed


class _Carrier(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


_decoder = msgspec.json.Decoder(_Carrier)


def usage_of(document: bytes) -> dict[str, Any] | None:
    """Return the `usage` object of a JSON answer or of a `data:` event, None when there is none."""
    start = 5 if document.startswith(b"data:") else 0
    try:
        found = json.loads(bytes(_decoder.decode(memoryview(document)[start:]).usage))
    except (msgspec.MsgspecError, ValueError) as error:
        raise UpstreamFailed("The engine's answer is not JSON; nothing was charged.") from error
    return found if isinstance(found, dict) else None
