"""One adapter process for each test process, with a key; every test begins with well-behaved providers."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from support.adapter import Adapter, adapter, missing


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapter]:
    if reason := missing():
        pytest.skip(reason)
    with adapter(tmp_path_factory.mktemp("adapter"), key="adapter-key") as running:
        yield running


@pytest.fixture
def outside(_running: Adapter) -> Adapter:
    """The running adapter."""
    _running.openai.behave()
    _running.anthropic.behave()
    return _running


@pytest.fixture
def client(outside: Adapter) -> Iterator[openai.OpenAI]:
    """The OpenAI SDK with the adapter's key, without retries."""
    with openai.OpenAI(base_url=f"{outside.url}/v1", api_key=outside.key, max_retries=0) as client:
        yield client
