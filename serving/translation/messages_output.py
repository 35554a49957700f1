"""An answer in the Messages shape: content blocks, and the events that tell how they grow.

Shapes as in `anthropic.types`. Reasoning is a thinking block, a refusal is a text, a call is tool_use.
"""

from __future__ import annotations

from serving.translation.chat import Token
from serving.translation.events import event
from serving.translation.fields import Json
from serving.translation.parts import Part, Parts
from serving.translation.usage import Counts

_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}


class Blocks:
    """Words the parts of one answer as content blocks; with `sealed`, thinking is not told."""

    def __init__(self, id_body: str, *, sealed: bool) -> None:
        self._id_body = id_body
        self.sealed = sealed

    def signature(self, part: Part) -> str:
        """Return what stands in for a signature: clients send a block back only if it has one.

        It proves nothing, and nothing is read out of it when it comes back.
        """
        return f"unsigned_{self._id_body}_{part.place}"

    def block(self, part: Part, *, started: bool = False) -> Json:
        """Return the content block of a part; when it has only `started`, without what it holds."""
        text = "" if started else part.text
        if part.kind == "tool":
            given = {} if started else _input(part)
            return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": given}
        if part.kind == "reasoning":
            signature = "" if started else self.signature(part)
            text = "" if self.sealed else text
            return {"type": "thinking", "thinking": text, "signature": signature}
        return {"type": "text", "text": text}


class BlockEvents:
    """Listens to the parts and collects events; `taken` hands them over."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._events: list[bytes] = []

    def tell(self, document: Json) -> None:
        """Add an event."""
        self._events.append(event(document))

    def taken(self) -> bytes:
        """Return what has been collected since the last time."""
        collected, self._events = b"".join(self._events), []
        return collected

    def opened(self, part: Part) -> None:
        """Tell of a new block."""
        block = self._blocks.block(part, started=True)
        self.tell({"type": "content_block_start", "index": part.place, "content_block": block})

    def grew(self, part: Part, piece: str, logprobs: list[Token]) -> None:
        """Tell of a piece; the Messages API has no log-probabilities."""
        if part.kind == "tool":
            self._delta(part, {"type": "input_json_delta", "partial_json": piece})
        elif part.kind != "reasoning":
            self._delta(part, {"type": "text_delta", "text": piece})
        elif not self._blocks.sealed:
            self._delta(part, {"type": "thinking_delta", "thinking": piece})

    def closed(self, part: Part) -> None:
        """Tell that a block has ended."""
        if part.kind == "reasoning":
            signature = self._blocks.signature(part)
            self._delta(part, {"type": "signature_delta", "signature": signature})
        self.tell({"type": "content_block_stop", "index": part.place})

    def _delta(self, part: Part, delta: Json) -> None:
        self.tell({"type": "content_block_delta", "index": part.place, "delta": delta})


def _input(part: Part) -> Json:
    # What a model wrote that is not JSON still has to reach the caller, as an object.
    found = part.arguments()
    if found is None:
        return {"INVALID_JSON": part.text} if part.text.strip() else {}
    return found


def stopped(parts: Parts, stop_sequences: list[str]) -> Json:
    """Return why the answer ended: `stop_reason`, `stop_sequence` and `stop_details`."""
    told: Json = {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None}
    kinds = {part.kind for part in parts.all}
    if parts.finish_reason in _STOP_REASONS:
        told["stop_reason"] = _STOP_REASONS[parts.finish_reason]
    elif "refusal" in kinds:
        told["stop_reason"] = "refusal"
    elif "tool" in kinds:
        told["stop_reason"] = "tool_use"
    elif parts.stop in stop_sequences:
        told |= {"stop_reason": "stop_sequence", "stop_sequence": parts.stop}
    if told["stop_reason"] == "refusal":
        words = "".join(part.text for part in parts.all if part.kind == "refusal")
        told["stop_details"] = {"type": "refusal", "category": None, "explanation": words or None}
    return told


def usage_object(counts: Counts) -> Json:
    """Return the usage of a message: cached and written tokens are beside the input here."""
    fresh = counts.input_tokens - counts.cached_tokens - counts.cache_write_tokens
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": counts.cache_write_tokens,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"thinking_tokens": counts.reasoning_tokens},
    }
