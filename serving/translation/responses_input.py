"""The `input` of a Responses request as the messages of a chat completion."""

from __future__ import annotations

from serving.translation.conversation import Conversation
from serving.translation.fields import (
    Json,
    checked,
    needed,
    optional,
    records,
    untranslatable,
    wrong,
)

_SEND_IT = "Send the content itself: nothing is stored here."


def conversation(body: Json) -> Conversation:
    """Return `instructions` and `input` as a conversation."""
    talk = Conversation(join_turns=False)
    if instructions := optional(body, "instructions", str):
        talk.system(instructions)
    given = body.get("input")
    if isinstance(given, str):
        talk.user([{"type": "text", "text": given}])
        return talk
    for at, item in records(given, "input"):
        _add(talk, item, at)
    if talk.last_role() is None:
        raise wrong("input", "at least one item is needed.")
    return talk


def _add(talk: Conversation, item: Json, at: str) -> None:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind == "message":
        _message(talk, item, at)
    elif kind == "function_call":
        if item.get("namespace"):
            raise untranslatable(f"{at}.namespace", "tools have no namespaces.", "Leave it out.")
        fields = (needed(item, name, str, f"{at}.") for name in ("call_id", "name", "arguments"))
        talk.call(*fields)
    elif kind == "function_call_output":
        output = _parts(item.get("output"), f"{at}.output")
        talk.result(needed(item, "call_id", str, f"{at}."), output, f"{at}.call_id")
    elif kind == "reasoning":
        _reasoning(talk, item, at)
    elif kind == "item_reference":
        raise untranslatable(f"{at}.id", "no item is stored to be referred to.", _SEND_IT)
    else:
        raise untranslatable(
            f"{at}.type",
            f"items of type {kind!r} belong to tools that are hosted elsewhere.",
            "Send messages, reasoning, function calls and their outputs.",
        )


def _message(talk: Conversation, item: Json, at: str) -> None:
    role = needed(item, "role", str, f"{at}.")
    parts = _parts(item.get("content"), f"{at}.content")
    if role == "user":
        talk.user(parts)
        return
    if role not in ("assistant", "system", "developer"):
        raise wrong(f"{at}.role", "user, assistant, system or developer is needed.")
    if any(part["type"] != "text" for part in parts):
        raise untranslatable(
            f"{at}.content", f"content of {role} is text.", "Send files and pictures as user."
        )
    text = "\n".join(part["text"] for part in parts)
    (talk.say if role == "assistant" else talk.system)(text)


def _reasoning(talk: Conversation, item: Json, at: str) -> None:
    said = [
        needed(part, "text", str, f"{place}.")
        for name in ("content", "summary")
        for place, part in records(item.get(name) or [], f"{at}.{name}")
    ]
    if not said and item.get("encrypted_content"):
        raise untranslatable(
            f"{at}.encrypted_content",
            "only its maker can read it.",
            "Leave the reasoning of other platforms out.",
        )
    if said:
        talk.think("\n".join(said))


def _parts(content: object, at: str) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_part(part, place) for place, part in records(content, at)]


def _part(part: Json, at: str) -> Json:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": needed(part, "text", str, f"{at}.")}
    if kind == "refusal":
        return {"type": "text", "text": needed(part, "refusal", str, f"{at}.")}
    if part.get("file_id"):
        raise untranslatable(f"{at}.file_id", "no files are stored here.", _SEND_IT)
    if kind == "input_image":
        picture = {"url": needed(part, "image_url", str, f"{at}.")}
        if detail := optional(part, "detail", str, f"{at}."):
            picture["detail"] = detail
        return {"type": "image_url", "image_url": picture}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": checked(part.get(kind), dict, f"{at}.{kind}")}
    if kind == "input_file":
        return _file(part, at)
    raise untranslatable(
        f"{at}.type",
        f"content of type {kind!r} is not known.",
        "Send input_text, input_image, input_audio or input_file.",
    )


def _file(part: Json, at: str) -> Json:
    if part.get("file_url"):
        raise untranslatable(
            f"{at}.file_url", "files are not fetched.", "Send it as file_data, in base64."
        )
    file = {"file_data": needed(part, "file_data", str, f"{at}.")}
    if name := optional(part, "filename", str, f"{at}."):
        file["filename"] = name
    return {"type": "file", "file": file}
