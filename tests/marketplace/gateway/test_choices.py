"""How many answers a request will have, which its hold must cover; and what of it can be counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from catalog.ground.errors import BadRequest
from marketplace.gateway.shapes import Talk


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"prompt": "one"}, 1),
        ({"prompt": "one", "n": 3}, 3),
        ({"prompt": ["one"]}, 1),
        ({"prompt": ["one", "two"]}, 2),
        ({"prompt": ["one", "two"], "n": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2, 3], [4]]}, 2),
        ({"prompt": []}, 1),
        ({"prompt": None}, 1),
        ({"prompt": ["one", "two"], "n": 1, "best_of": 4}, 8),
        ({"prompt": "one", "best_of": None}, 1),
    ],
)
def test_a_completion_has_an_answer_for_each_prompt(fields: dict[str, Any], count: int) -> None:
    body = json.dumps({"model": "m"} | fields).encode()
    assert Talk("/v1/completions", body).choices == count


@pytest.mark.parametrize("best_of", [0, 129, 4.0, "4", True])
def test_what_an_engine_might_take_for_a_number_is_refused(best_of: Any) -> None:
    body = json.dumps({"model": "m", "prompt": "one", "best_of": best_of}).encode()
    with pytest.raises(BadRequest, match="best_of"):
        _ = Talk("/v1/completions", body).choices


@pytest.mark.parametrize("odd", ["1e400", "9" * 5_000, '"\\u0041"'])
def test_media_are_counted_however_they_are_spelt_beside_what_only_an_engine_reads(
    odd: str,
) -> None:
    part = '{"type": "\\u0069mage\\u005Furl", "im\\u0061ge_url": "a"}'
    other = '{"type":"t\\u0065xt","text":"a \\"image_url\\", and \\u0022file\\u0022"}'
    body = f'{{"model":"m","x":{odd},"messages":[{{"role":"user","content":[{part},{other}]}}]}}'
    assert Talk("/v1/chat/completions", body.encode()).media == 2  # at most: its type, and its name


def test_a_conversation_has_as_many_as_it_asks_for() -> None:
    body = {"model": "m", "messages": [], "prompt": ["a", "b"], "n": 2}
    assert Talk("/v1/chat/completions", json.dumps(body).encode()).choices == 2


def test_a_request_in_no_tokenizers_shape_is_counted_with_its_instructions() -> None:
    body: dict[str, Any] = {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "Be brief."}],
    }
    body |= {"messages": [{"role": "user", "content": "Hi"}], "container": "c"}
    talk = Talk("/v1/messages", json.dumps(body).encode())
    assert talk.countable() == {"prompt": "Be brief.\nHi"}
