"""An answer in the Responses shape: items, and the events that tell how they grow.

Shapes as in `openai.types.responses`. Every part is an output item of its own:

    reasoning  reasoning item, one summary text      text     message item, one output_text
    tool       function_call item                    refusal  message item, one refusal
"""

from __future__ import annotations

from typing import Any

from serving.translation.chat import Alternative, Token
from serving.translation.events import event
from serving.translation.fields import Json
from serving.translation.parts import Part
from serving.translation.usage import Counts

_PREFIX = {"reasoning": "rs", "text": "msg", "refusal": "msg", "tool": "fc"}


class Items:
    """Words the parts of one answer as output items."""

    def __init__(self, id_body: str, *, logprobs: bool) -> None:
        self._id_body = id_body
        self._logprobs = logprobs

    def id(self, part: Part) -> str:
        """Return the item's id: the same in every event and in the whole answer."""
        return f"{_PREFIX[part.kind]}_{self._id_body}_{part.place}"

    def item(self, part: Part, *, started: bool = False) -> Json:
        """Return the output item of a part; when it has only `started`, without what it holds."""
        status = "in_progress" if started else "incomplete" if part.cut else "completed"
        known = {"id": self.id(part), "status": status}
        if part.kind == "tool":
            arguments = "" if started else part.text
            call = {"call_id": part.call_id, "name": part.name, "arguments": arguments}
            return known | {"type": "function_call"} | call
        content = [] if started else [self.content(part, part.text, part.logprobs)]
        if part.kind == "reasoning":
            return known | {"type": "reasoning", "summary": content}
        return known | {"type": "message", "role": "assistant", "content": content}

    def content(self, part: Part, text: str, logprobs: list[Token]) -> Json:
        """Return the one content (or summary) part of an item."""
        if part.kind == "reasoning":
            return {"type": "summary_text", "text": text}
        if part.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        told = self.logprobs(logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": told}

    def logprobs(self, logprobs: list[Token]) -> list[Json]:
        """Return the tokens' log-probabilities, if the client asked for them."""
        if not self._logprobs:
            return []
        return [
            _token(token) | {"top_logprobs": [_token(other) for other in token.top_logprobs or ()]}
            for token in logprobs
        ]


class ItemEvents:
    """Listens to the parts and collects numbered events; `taken` hands them over."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._number = 0
        self._events: list[bytes] = []

    def tell(self, kind: str, **fields: Any) -> None:
        """Add an event of type `kind` with the next sequence number."""
        numbered = {"type": kind, "sequence_number": self._number}
        self._events.append(event(numbered | fields))
        self._number += 1

    def taken(self) -> bytes:
        """Return what has been collected since the last time."""
        collected, self._events = b"".join(self._events), []
        return collected

    def opened(self, part: Part) -> None:
        """Tell of a new item, and of its content part."""
        item = self._items.item(part, started=True)
        self.tell("response.output_item.added", output_index=part.place, item=item)
        if part.kind != "tool":
            content = self._items.content(part, "", [])
            self.tell(_around(part, "added"), **self._place(part), part=content)

    def grew(self, part: Part, piece: str, logprobs: list[Token]) -> None:
        """Tell of a piece."""
        fields = self._place(part) | {"delta": piece}
        if part.kind == "text":
            fields["logprobs"] = self._items.logprobs(logprobs)
        self.tell(_said(part, "delta"), **fields)

    def closed(self, part: Part) -> None:
        """Tell the whole of the content, and that the item has ended."""
        place, text = self._place(part), part.text
        if part.kind == "tool":
            self.tell(_said(part, "done"), **place, arguments=text)
        else:
            content = self._items.content(part, text, part.logprobs)
            told = {key: content[key] for key in ("text", "refusal", "logprobs") if key in content}
            self.tell(_said(part, "done"), **place, **told)
            self.tell(_around(part, "done"), **place, part=content)
        item = self._items.item(part)
        self.tell("response.output_item.done", output_index=part.place, item=item)

    def _place(self, part: Part) -> Json:
        place = {"item_id": self._items.id(part), "output_index": part.place}
        if part.kind == "reasoning":
            return place | {"summary_index": 0}
        return place if part.kind == "tool" else place | {"content_index": 0}


def _said(part: Part, what: str) -> str:
    name = {
        "reasoning": "reasoning_summary_text",
        "text": "output_text",
        "refusal": "refusal",
        "tool": "function_call_arguments",
    }[part.kind]
    return f"response.{name}.{what}"


def _around(part: Part, what: str) -> str:
    name = "reasoning_summary_part" if part.kind == "reasoning" else "content_part"
    return f"response.{name}.{what}"


def _token(token: Alternative) -> Json:
    return {"token": token.token, "bytes": token.raw, "logprob": token.logprob}


def usage_object(counts: Counts) -> Json:
    """Return the usage of a response."""
    return {
        "input_tokens": counts.input_tokens,
        "input_tokens_details": {
            "cached_tokens": counts.cached_tokens,
            "cache_write_tokens": counts.cache_write_tokens,
        },
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.input_tokens + counts.output_tokens,
    }
