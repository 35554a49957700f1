"""Engines that do not keep to the letter: nothing is lost, and nothing is told twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from catalog.ground.errors import UpstreamFailed
from serving.translation import Messages, Responses, translation_for
from serving.translation.chat import Token, choice_of
from serving.translation.parts import Part, Parts

Json = dict[str, Any]


class Told:
    """Writes down what a listener hears."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def opened(self, part: Part) -> None:
        self.log.append(f"+{part.place} {part.name or part.kind}")

    def grew(self, part: Part, piece: str, logprobs: list[Token]) -> None:
        self.log.append(f"{part.place} {piece}")

    def closed(self, part: Part) -> None:
        self.log.append(f"-{part.place}")


def _call(index: int | None, **fields: Any) -> Json:
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    place = {} if index is None else {"index": index}
    return {"delta": {"tool_calls": [place | fields | {"function": function}]}}


def _take(parts: Parts, choice: Json) -> None:
    read = choice_of({"choices": [choice]})
    assert read is not None
    parts.take(read)


def _hear(*choices: Json, finish: str = "stop") -> tuple[list[str], Parts]:
    told = Told()
    parts = Parts("01K", told)
    for choice in (*choices, {"delta": {}, "finish_reason": finish}):
        _take(parts, choice)
    parts.end()
    return told.log, parts


def test_pieces_are_told_as_they_come() -> None:
    log, _ = _hear(
        {"delta": {"content": "a"}},
        _call(0, id="x", name="f", arguments=""),
        _call(0, arguments='{"k'),
        _call(0, arguments='": 1}'),
    )
    assert log == ["+0 text", "0 a", "-0", "+1 f", '1 {"k', '1 ": 1}', "-1"]


def test_mixed_calls_wait_for_the_one_before() -> None:
    log, _ = _hear(
        _call(0, id="x", name="f", arguments='{"a'),
        _call(1, id="y", name="g", arguments='{"b'),
        _call(0, arguments='": 1}'),
        _call(1, arguments='": 2}'),
    )
    assert log == ["+0 f", '0 {"a', '0 ": 1}', "-0", "+1 g", '1 {"b', '1 ": 2}', "-1"]


def test_arguments_too_deep_to_be_read_are_told_as_they_are() -> None:
    deep = '{"a":' * 5_000 + "1" + "}" * 5_000
    log, parts = _hear(
        _call(0, id="x", name="f", arguments=deep), _call(1, id="y", name="g", arguments="{}")
    )
    assert log == ["+0 f", f"0 {deep}", "-0", "+1 g", "1 {}", "-1"]
    assert parts.all[0].arguments() is None


def test_text_after_a_call_stands_after_it() -> None:
    log, _ = _hear(_call(0, id="x", name="f", arguments="{}"), {"delta": {"content": "b"}})
    assert log == ["+0 f", "0 {}", "-0", "+1 text", "1 b", "-1"]


def test_id_and_name_repeated_with_every_piece() -> None:
    pieces = [_call(0, id="x", name="f", arguments=piece) for piece in ("", '{"a":', " 1}")]
    _, parts = _hear(*pieces)
    assert [(part.name, part.call_id, part.text) for part in parts.all] == [("f", "x", '{"a": 1}')]


def test_calls_that_are_all_number_0() -> None:
    _, parts = _hear(
        _call(0, id="x", name="f", arguments="{}"), _call(0, id="y", name="f", arguments="{}")
    )
    assert [part.call_id for part in parts.all] == ["x", "y"]


def test_ids_that_are_missing_or_used_twice_are_made() -> None:
    message = {
        "tool_calls": [
            {"id": "same", "function": {"name": "f", "arguments": "{}"}},
            {"id": "same", "function": {"name": "g", "arguments": "{}"}},
            {"function": {"name": "h", "arguments": "{}"}},
        ]
    }
    parts = Parts("01K")
    _take(parts, {"message": message, "finish_reason": "tool_calls"})
    parts.end()
    assert [part.call_id for part in parts.all] == ["same", "call_01K_1", "call_01K_2"]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    log, _ = _hear(_call(0, id="x", name="f"))
    assert log == ["+0 f", "0 {}", "-0"]
    log, _ = _hear(_call(0, id="x", name="f"), finish="length")
    assert log == ["+0 f", "-0"]


def test_blanks_after_a_finished_call_are_nothing_but_more_is_an_error() -> None:
    first, text = _call(0, id="x", name="f", arguments="{}"), {"delta": {"content": "b"}}
    log, _ = _hear(first, text, _call(0, arguments="\n"))
    assert log[-2:] == ["1 b", "-1"]
    with pytest.raises(UpstreamFailed):
        _hear(first, text, _call(0, arguments='{"again": 1}'))


def test_arguments_that_are_not_json_still_reach_the_caller() -> None:
    call = {"id": "x", "function": {"name": "f", "arguments": '{"a": '}}
    chat = {"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "length"}]}
    hi = [{"role": "user", "content": "Hi"}]
    message = Messages({"model": "m", "max_tokens": 1, "messages": hi}).answer(chat, "gen_1", 1)
    assert message["content"][0]["input"] == {"INVALID_JSON": '{"a": '}
    response = Responses({"model": "m", "input": "Hi"}).answer(chat, "gen_1", 1)
    assert response["output"][0]["arguments"] == '{"a": '
    assert response["output"][0]["status"] == "incomplete"


def test_logprobs_are_those_of_the_text() -> None:
    tokens = [{"token": token, "logprob": -1.0} for token in ("think", "ing", "Yes", "!", "<end>")]
    message = {"reasoning_content": "thinking", "content": "Yes!"}
    parts = Parts("01K")
    _take(parts, {"message": message, "logprobs": {"content": tokens}})
    assert [token.token for token in parts.all[1].logprobs] == ["Yes", "!"]
    said = [
        {"delta": {"reasoning": "thinking"}, "logprobs": {"content": tokens[:2]}},
        {"delta": {"content": "Yes"}, "logprobs": {"content": tokens[2:3]}},
        {"delta": {"content": "!"}, "logprobs": {"content": tokens[3:4]}},
        {"delta": {"content": ""}, "logprobs": {"content": tokens[4:]}},
    ]
    _, parts = _hear(*said)
    assert [token.token for token in parts.all[1].logprobs] == ["Yes", "!"]


@pytest.mark.parametrize(
    "chat",
    [{}, {"choices": []}, {"choices": [{"text": "x"}]}, {"choices": [{"message": {"content": 7}}]}],
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_nonsense_is_the_engines_failure(path: str, chat: Json) -> None:
    body = {"model": "m", "input": "Hi", "max_tokens": 1}
    asked = translation_for(path)(body | {"messages": [{"role": "user", "content": "Hi"}]})
    with pytest.raises(UpstreamFailed):
        asked.answer(chat, "gen_1", 1)


def test_usage_that_cannot_be_is_cut(read_events: Any) -> None:
    details = {"cached_tokens": 99, "cache_write_tokens": 4}
    usage = {"prompt_tokens": 10, "completion_tokens": -3, "prompt_tokens_details": details}
    hi = [{"role": "user", "content": "Hi"}]
    asked = Messages({"model": "m", "max_tokens": 1, "messages": hi})
    told = read_events(asked.begin("gen_1", 1) + asked.finish(usage))[-2]["usage"]
    assert (told["input_tokens"], told["cache_read_input_tokens"]) == (0, 10)
    assert told["output_tokens"] == 0


def test_reasoning_counted_beside_the_answer() -> None:
    details = {"reasoning_tokens": 5}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 8}
    chat = {"choices": [{"message": {"content": "x"}}]}
    chat["usage"] = usage | {"completion_tokens_details": details}  # type: ignore[assignment]
    told = Responses({"model": "m", "input": "Hi"}).answer(chat, "gen_1", 1)["usage"]
    assert (told["output_tokens"], told["total_tokens"]) == (7, 8)


def test_it_is_light() -> None:
    """A lean worker imports it: nothing comes along but the standard library, msgspec and our errors."""
    program = (
        "import sys, json; before = set(sys.modules); import serving.translation;"
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    root = Path(__file__).parents[3]
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, check=True
    )
    found = set(json.loads(said.stdout)) - set(sys.stdlib_module_names)
    assert found <= {"catalog", "msgspec", "serving", "typing_extensions"}
