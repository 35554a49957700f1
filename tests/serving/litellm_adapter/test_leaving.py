"""A client that leaves ends the provider's work, whatever the provider is doing."""

from __future__ import annotations

import http.client
import json
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.adapter import CLAUDE, GPT, Adapter
from support.market import wait_until

MESSAGES: Any = [{"role": "user", "content": "hi"}]
BOTH = pytest.mark.parametrize("model", [GPT, CLAUDE])


def begin(outside: Adapter, **fields: Any) -> http.client.HTTPConnection:
    """Send a chat and leave the answer where it is."""
    where = urlsplit(outside.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    asked = json.dumps({"messages": MESSAGES} | fields)
    connection.request(
        "POST", "/v1/chat/completions", asked, {"authorization": f"Bearer {outside.key}"}
    )
    return connection


def metric(outside: Adapter, name: str) -> float:
    with urllib.request.urlopen(f"{outside.url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@BOTH
@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_in_the_middle_of_a_stream(outside: Adapter, model: str, pause_s: float) -> None:
    # Without a pause the adapter waits for its client, with one for the provider.
    provider = outside.openai if model == GPT else outside.anthropic
    provider.behave(endless=True, pause_s=pause_s)
    before = metric(outside, "tokenmart_adapter_cancelled_total")
    connection = begin(outside, model=model, stream=True)
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data:")
    assert not provider.aborted.is_set()
    answer.close()
    connection.close()
    assert provider.aborted.wait(10)
    wait_until(lambda: metric(outside, "tokenmart_adapter_open{") == 0)
    assert metric(outside, "tokenmart_adapter_cancelled_total") == before + 1


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_before_the_first_byte(outside: Adapter, model: str, stream: bool) -> None:
    provider = outside.openai if model == GPT else outside.anthropic
    provider.behave(silent=True)
    connection = begin(outside, model=model, stream=stream)
    wait_until(lambda: len(provider.seen) == 1)
    connection.close()
    assert provider.aborted.wait(10)
    wait_until(lambda: metric(outside, "tokenmart_adapter_open{") == 0)


def test_what_is_counted(outside: Adapter) -> None:
    connection = begin(outside, model=GPT)
    assert connection.getresponse().status == 200
    connection.close()
    asked = 'tokenmart_adapter_requests_total{endpoint="chat",model="outside/gpt",outcome="200"}'
    assert metric(outside, asked) >= 1
    assert metric(outside, "tokenmart_adapter_prompt_tokens_total") > 0
    assert metric(outside, "tokenmart_adapter_completion_tokens_total") > 0
