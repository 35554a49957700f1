"""The messages of a chat completion, put together from the items of another shape.

What other shapes hold apart (reasoning, text and tool calls of one turn) is one assistant message here,
because chat templates expect the results of tools right after the message that called them.
"""

from __future__ import annotations

from typing import Any

from serving.translation.fields import Json, wrong


class Conversation:
    """Say things in order, then take `messages()`."""

    def __init__(self, *, join_turns: bool) -> None:
        """Consecutive user turns become one with `join_turns`, as Anthropic's API defines them."""
        self._join_turns = join_turns
        self._messages: list[Json] = []
        self._calls: set[str] = set()
        self._pictures: list[Json] = []

    def system(self, text: str) -> None:
        """Add an instruction. At the start all are one message: templates know only one."""
        self._show_pictures()
        if len(self._messages) == 1 and self._messages[0]["role"] == "system":
            self._messages[0]["content"] += "\n\n" + text
        else:
            self._messages.append({"role": "system", "content": text})

    def user(self, parts: list[Json]) -> None:
        """Add content parts of the user, in chat's shape."""
        parts, self._pictures = self._pictures + parts, []
        last = self._messages[-1] if self._messages else {}
        if self._join_turns and last.get("role") == "user":
            last["content"] += parts
        elif parts:
            self._messages.append({"role": "user", "content": parts})

    def say(self, text: str) -> None:
        """Add a text of the model."""
        turn = self._turn()
        turn["content"] = text if turn["content"] is None else f"{turn['content']}\n{text}"

    def think(self, text: str) -> None:
        """Add reasoning of the model. Engines read it under one of two names, so it has both."""
        turn = self._turn()
        before = turn.get("reasoning_content")
        turn["reasoning"] = turn["reasoning_content"] = f"{before}\n{text}" if before else text

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """Add a tool call of the model."""
        self._calls.add(call_id)
        self._turn().setdefault("tool_calls", []).append(
            {
                "id": call_id,
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        )

    def result(self, call_id: str, parts: list[Json], param: str) -> None:
        """Add what a tool gave back. Its pictures follow in a user message: tool messages are text."""
        if call_id not in self._calls:
            raise wrong(param, f"no earlier tool call has the id {call_id!r}.")
        self._pictures += [part for part in parts if part["type"] != "text"]
        self._messages.append(
            {
                "role": "tool",
                "tool_call_id": call_id,
                "content": "\n".join(part["text"] for part in parts if part["type"] == "text"),
            }
        )

    def messages(self) -> list[Json]:
        """Return the messages; content that is text alone is one string, which every engine reads."""
        self._show_pictures()
        return [message | {"content": _plain(message["content"])} for message in self._messages]

    def last_role(self) -> str | None:
        """Return who spoke last."""
        return self._messages[-1]["role"] if self._messages else None

    def _turn(self) -> Json:
        self._show_pictures()
        if self.last_role() != "assistant":
            self._messages.append({"role": "assistant", "content": None})
        return self._messages[-1]

    def _show_pictures(self) -> None:
        if self._pictures:
            self.user([])


def _plain(content: Any) -> Any:
    if isinstance(content, list) and all(part["type"] == "text" for part in content):
        return "\n".join(part["text"] for part in content)
    return content
