"""The only place that calls litellm: one call to a provider for one request, and nothing around it.

No Router, no retries, no cache, no callbacks, no telemetry, no downloads: whoever asked has a router and a
ledger of its own and must see every failure as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import httpx
import litellm

from serving.litellm_adapter import answers
from serving.litellm_adapter.config import Served
from serving.litellm_adapter.failures import broken_off

Json = dict[str, Any]
Result = TypeVar("Result")


def prepare() -> None:
    """Switch off what litellm does beside a call. Once, before the first."""
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.set_verbose = False
    litellm.disable_hf_tokenizer_download = True
    litellm.callbacks = []
    litellm.num_retries = 0
    # It ends streams that say the same a hundred times, as a table of dots does. Not its to judge.
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize
    # A provider that redirects would have its key, our headers and the question sent to another listed one:
    # httpx takes off `Authorization` only, and litellm's clients follow.
    httpx.Response.has_redirect_location = property(lambda _: False)


async def chat(served: Served, fields: Json) -> Json:
    """Return a whole `chat.completion`. Raises what litellm raises."""
    asked = litellm.acompletion(**_arguments(served, fields), _skip_mcp_handler=True)
    return answers.whole_chat(await _in_time(served, asked), served.name)


async def text(served: Served, fields: Json) -> Json:
    """Return a whole `text_completion`."""
    asked = litellm.atext_completion(**_arguments(served, fields))
    return answers.whole_text(await _in_time(served, asked), served.name)


async def text_chunks(served: Served, fields: Json) -> AsyncIterator[Json]:
    """Yield a text completion as one chunk, then its usage.

    litellm's streams of texts do not tell a complete answer from a broken one, nor counts that were
    reported from counts that were guessed, so the answer is waited for.
    """
    whole = await text(served, fields)
    told = whole.pop("usage", None)
    yield whole
    if told is not None:
        yield whole | {"choices": [], "usage": told}


async def embeddings(served: Served, fields: Json, encoding: str | None) -> Json:
    """Return a list of embeddings; `encoding` is `base64` or `float`."""
    asked = litellm.aembedding(**_arguments(served, fields))
    return answers.embeddings(await _in_time(served, asked), served.name, encoding)


async def moderation(served: Served, fields: Json) -> Json:
    """Return a moderation."""
    asked = litellm.amoderation(**_arguments(served, fields))
    return answers.moderation(await _in_time(served, asked), served.name)


async def chat_chunks(served: Served, fields: Json) -> AsyncIterator[Json]:
    """Yield the chunks of a streamed chat, the usage last, if the provider reported any.

    Ends the provider's answer when it is closed or cancelled. Raises what litellm raises, and
    `UpstreamFailed` for a stream that ends before the provider said so: litellm would finish it with
    "stop" and counts of its own.
    """
    asked = _arguments(served, fields) | {"stream": True, "stream_options": {"include_usage": True}}
    stream = await _in_time(served, litellm.acompletion(**asked, _skip_mcp_handler=True))
    created_s, identity = int(time.time()), None
    try:
        while (piece := await _in_time(served, anext(stream, None))) is not None:
            identity = identity or piece.id
            if getattr(piece, "usage", None) is not None:
                told = answers.usage(piece.usage)
                if told is not None and _was_reported(stream):
                    yield answers.usage_chunk(identity, served.name, created_s, told)
                continue
            _check_finish(stream, piece)
            if piece.choices:
                document = answers.chunk(piece, served.name, created_s)
                yield document | {"id": identity}
    finally:
        await _close(stream)


def count(served: Served, messages: Any, prompt: Any, tools: Any) -> int:
    """Return about how many tokens a prompt has, with the tokenizer that litellm has for the model."""
    model = served.settings.model
    if messages is not None:
        return int(litellm.token_counter(model=model, messages=messages, tools=tools))
    texts = prompt if isinstance(prompt, list) else [prompt]
    if all(isinstance(item, int) for item in texts):
        return len(texts)
    return sum(
        len(item) if isinstance(item, list) else int(litellm.token_counter(model=model, text=item))
        for item in texts
    )


def _arguments(served: Served, fields: Json) -> Json:
    settings = served.settings
    ours = {
        "model": settings.model,
        "num_retries": 0,
        "max_retries": 0,
        "timeout": settings.timeout_s,
        "drop_params": settings.drop_params,
    }
    return fields | served.arguments | ours


async def _in_time(served: Served, work: Awaitable[Result]) -> Result:
    async with asyncio.timeout(served.settings.timeout_s):
        return await work


def _was_reported(stream: Any) -> bool:
    """Whether a provider's chunk carried the usage: litellm counts by itself where none did."""
    return any(getattr(chunk, "usage", None) is not None for chunk in getattr(stream, "chunks", ()))


def _check_finish(stream: Any, piece: Any) -> None:
    finishes = any(choice.finish_reason for choice in piece.choices)
    said = getattr(stream, "received_finish_reason", None) or getattr(
        stream, "intermittent_finish_reason", None
    )
    if finishes and not said:
        raise broken_off()


async def _close(stream: Any) -> None:
    """Hang up on the provider.

    litellm's own `aclose` does not reach the connection for every provider, so whatever inside the stream
    can be closed is closed too; a connection that has been read to its end does not mind.
    """
    inner = getattr(stream, "completion_stream", None)
    parts = [getattr(inner, name, None) for name in ("response_iterator", "streaming_response")]
    for part in (stream, inner, *parts):
        if hasattr(part, "aclose"):
            with contextlib.suppress(Exception):
                await part.aclose()
