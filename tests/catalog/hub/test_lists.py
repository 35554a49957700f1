"""Lists find a repository by every word that they show of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest


@pytest.fixture
def hub(thread_hub: Callable[..., Any]) -> Any:
    hub = thread_hub()
    hub.ask("POST", "/api/repos/create", {"name": "my_Org/model"}, key="hf_operator")
    hub.ask("POST", "/api/repos/create", {"name": "acme/other"})
    card = """---
license: MIT
language: [zh]
base_model: org/base
tags: ['a "b"', 100%, 词元]
---
"""
    content = base64.b64encode(card.encode()).decode()
    value = {"path": "README.md", "content": content, "encoding": "base64"}
    answer = hub.commit("my_Org/model", {"key": "file", "value": value}, key="hf_operator")
    assert answer.status == 200
    return hub


def test_every_tag_that_is_shown_is_found(hub: Any) -> None:
    tags = hub.ask("GET", "/api/models/my_Org/model").json()["tags"]
    assert set(tags) == {'a "b"', "100%", "词元", "zh", "license:MIT", "base_model:org/base"}
    for tag in tags:
        found = hub.ask("GET", f"/api/models?filter={quote(tag)}").json()
        assert [item["id"] for item in found] == ["my_Org/model"], tag
    assert hub.ask("GET", "/api/models?filter=license:mi").json() == []


@pytest.mark.parametrize("words", ["my_org", "MY_ORG", "model my_", "my_Org/mod"])
def test_an_organisation_is_found_by_its_name(hub: Any, words: str) -> None:
    found = hub.ask("GET", f"/api/models?search={quote(words)}").json()
    assert [item["id"] for item in found] == ["my_Org/model"]
