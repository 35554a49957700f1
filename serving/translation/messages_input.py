"""`system` and `messages` of an Anthropic request as the messages of a chat completion."""

from __future__ import annotations

import msgspec

from serving.translation.conversation import Conversation
from serving.translation.fields import Json, needed, optional, records, untranslatable, wrong

_PLAIN = "Send it as text."


def conversation(body: Json) -> Conversation:
    """Return the request's conversation; its last turn is the user's."""
    talk = Conversation(join_turns=True)
    _system(talk, body.get("system"), "system")
    for at, message in records(body.get("messages"), "messages"):
        role, content = needed(message, "role", str, f"{at}."), message.get("content")
        if role == "user":
            _user(talk, content, f"{at}.content")
        elif role == "assistant":
            _assistant(talk, content, f"{at}.content")
        elif role == "system":
            _system(talk, content, f"{at}.content")
        else:
            raise wrong(f"{at}.role", "user, assistant or system is needed.")
    if talk.last_role() == "assistant":
        raise untranslatable(
            "messages",
            "the last turn is the assistant's, and engines cannot continue it.",
            "End with a user message.",
        )
    if talk.last_role() in (None, "system"):
        raise wrong("messages", "at least one user message is needed.")
    return talk


def _system(talk: Conversation, content: object, at: str) -> None:
    texts = [needed(block, "text", str, f"{place}.") for place, block in _blocks(content, at)]
    if text := "\n\n".join(texts):
        talk.system(text)


def _user(talk: Conversation, content: object, at: str) -> None:
    parts: list[Json] = []
    for place, block in _blocks(content, at):
        if block.get("type") == "tool_result":
            _result(talk, block, place)
        else:
            parts += _parts(block, place)
    talk.user(parts)


def _result(talk: Conversation, block: Json, at: str) -> None:
    parts = [
        part
        for place, inner in _blocks(block.get("content"), f"{at}.content")
        for part in _parts(inner, place)
    ]
    if block.get("is_error"):
        # Chat has no field for it, and the model should know.
        parts.insert(0, {"type": "text", "text": "The tool failed:"})
    call_id = needed(block, "tool_use_id", str, f"{at}.")
    talk.result(call_id, parts, f"{at}.tool_use_id")


def _assistant(talk: Conversation, content: object, at: str) -> None:
    for place, block in _blocks(content, at):
        kind = block.get("type")
        if kind == "text":
            talk.say(needed(block, "text", str, f"{place}."))
        elif kind == "thinking":
            if thinking := needed(block, "thinking", str, f"{place}."):
                talk.think(thinking)
        elif kind == "tool_use":
            given = msgspec.json.encode(needed(block, "input", dict, f"{place}.")).decode()
            call_id = needed(block, "id", str, f"{place}.")
            talk.call(call_id, needed(block, "name", str, f"{place}."), given)
        elif kind != "redacted_thinking":  # that one is sealed: nobody but its maker can read it
            raise _not_ours(kind, place)


def _blocks(content: object, at: str) -> list[tuple[str, Json]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [(at, {"type": "text", "text": content})] if content else []
    return records(content, at)


def _parts(block: Json, at: str) -> list[Json]:
    kind = block.get("type")
    citations = block.get("citations")  # of a text: what it cites; of a source: whether to cite it
    if isinstance(citations, dict) and citations.get("enabled"):
        raise untranslatable(f"{at}.citations", "engines do not cite.", "Leave citations out.")
    if kind == "text":
        return [_text(needed(block, "text", str, f"{at}."))]
    if kind == "image":
        return [_image(needed(block, "source", dict, f"{at}."), f"{at}.source")]
    if kind == "document":
        return _document(block, at)
    if kind == "search_result":
        inner = records(block.get("content"), f"{at}.content")
        texts = [needed(part, "text", str, f"{place}.") for place, part in inner]
        head = f"{needed(block, 'title', str, f'{at}.')} ({needed(block, 'source', str, f'{at}.')})"
        return [_text("\n".join([head, *texts]))]
    raise _not_ours(kind, at)


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _image(source: Json, at: str) -> Json:
    kind = source.get("type")
    if kind == "base64":
        url = f"data:{needed(source, 'media_type', str, f'{at}.')};base64,"
        url += needed(source, "data", str, f"{at}.")
    elif kind == "url":
        url = needed(source, "url", str, f"{at}.")
    else:
        raise _stored(kind, at, "base64 or url")
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: Json, at: str) -> list[Json]:
    source = needed(block, "source", dict, f"{at}.")
    title = optional(block, "title", str, f"{at}.")
    head = [text for text in (title, optional(block, "context", str, f"{at}.")) if text]
    kind = source.get("type")
    if kind == "text":
        data = needed(source, "data", str, f"{at}.source.")
        return [_text("\n".join([*head, data]))]
    if kind == "content":
        inner = _blocks(source.get("content"), f"{at}.source.content")
        parts = [part for place, piece in inner for part in _parts(piece, place)]
    elif kind == "base64":
        media_type = needed(source, "media_type", str, f"{at}.source.")
        data = f"data:{media_type};base64,{needed(source, 'data', str, f'{at}.source.')}"
        file = {"filename": title or "document.pdf", "file_data": data}
        parts = [{"type": "file", "file": file}]
    else:
        raise _stored(kind, f"{at}.source", "text, content or base64")
    return [*map(_text, head), *parts]


def _stored(kind: object, at: str, known: str) -> Exception:
    return untranslatable(
        f"{at}.type", f"sources of type {kind!r} are not fetched here.", f"Send {known}."
    )


def _not_ours(kind: object, at: str) -> Exception:
    return untranslatable(
        f"{at}.type",
        f"a block of type {kind!r} does not belong here, or to a tool that is hosted elsewhere.",
        _PLAIN,
    )
