"""Other shapes of the same conversation: OpenAI's Responses API and Anthropic's Messages API.

    client's body ──► Responses / Messages ──► chat_request() ──► engine's /v1/chat/completions
    client ◄── answer() | begin() feed()… finish() ◄─────────────── answer, or chunks

Every engine speaks chat completions; here is the one place that knows the rest. No network and no clock:
dictionaries go in, dictionaries and the bytes of server-sent events come out.

    t = translation_for("/v1/messages")(body)      # BadRequest names the field that cannot be translated
    t.chat_request()                               # the body for the engine; the model as the client wrote it
    t.answer(chat, generation_id, created_s)       # a whole answer
    t.begin(generation_id, created_s)              # or a stream: its first events,
    t.feed(chunk)                                  #   some for each chunk (b"" for none),
    t.finish(usage)                                #   and its last ones, to be sent after settlement;
    t.fail(error)                                  #   or how it broke off
    t.render_error(error, generation_id)           # an error before the answer has begun (static)

    c = token_count_for("/v1/messages/count_tokens")(body)
    c.chat_request()                               # its messages and tools are to be counted
    c.answer(count)

`feed` and `answer` raise `UpstreamFailed` for what is no chat completion. Both ways lead to the same
answer: `parts.py` takes a whole answer as one large piece of a stream.

What a chat completion cannot express is refused when it would change the answer (state kept between
calls, hosted tools, background work, files by id, citations), and left out when it cannot (hints for
caches, service tiers, safety identifiers, `truncation`: an input that is too long is refused by itself).
Unknown top-level fields are ignored, as everywhere under `/v1`.

    fields.py        reading, refusing            conversation.py  messages of a chat completion
    chat.py          what engines answer          parts.py         pieces to parts, in order
    usage.py         counts of tokens             events.py        bytes of events
    responses*.py    request, input items, output items and events
    messages*.py     request, content blocks in, content blocks and events out

Imports `catalog.ground.errors`, `catalog.ground.rendering` and msgspec, and nothing else.
"""

from __future__ import annotations

from serving.translation.messages import NO_THREADS, Messages, MessageTokens
from serving.translation.responses import InputTokens, Responses

Translation = Responses | Messages
TokenCount = InputTokens | MessageTokens

TRANSLATIONS: dict[str, type[Responses] | type[Messages]] = {
    "/v1/responses": Responses,
    "/v1/messages": Messages,
}
TOKEN_COUNTS: dict[str, type[InputTokens] | type[MessageTokens]] = {
    "/v1/responses/input_tokens": InputTokens,
    "/v1/messages/count_tokens": MessageTokens,
}


def translation_for(path: str) -> type[Responses] | type[Messages]:
    """Return the shape of a path; `KeyError` for a path that is not in `TRANSLATIONS`."""
    return TRANSLATIONS[path]


def token_count_for(path: str) -> type[InputTokens] | type[MessageTokens]:
    """Return the counting shape of a path; `KeyError` for a path that is not in `TOKEN_COUNTS`."""
    return TOKEN_COUNTS[path]


__all__ = [
    "NO_THREADS",
    "TOKEN_COUNTS",
    "TRANSLATIONS",
    "InputTokens",
    "MessageTokens",
    "Messages",
    "Responses",
    "TokenCount",
    "Translation",
    "token_count_for",
    "translation_for",
]
