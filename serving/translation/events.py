"""Server-sent events with a name, as both shapes have them."""

from __future__ import annotations

import msgspec

from serving.translation.fields import Json

_encode = msgspec.json.Encoder().encode


def event(document: Json) -> bytes:
    """Return one event; its name is the document's `type`."""
    return b"event: %b\ndata: %b\n\n" % (document["type"].encode(), _encode(document))


def id_body(generation_id: str) -> str:
    """Return the part of a generation's id behind its prefix: other ids of the answer are made of it."""
    return generation_id.rpartition("_")[2]
