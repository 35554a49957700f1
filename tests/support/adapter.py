"""The litellm adapter as an operator starts it, in front of two providers on the loopback address."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.providers import Provider, provider

from catalog.ground.errors import Unavailable
from serving.litellm_adapter.launch import LOCK, TOOLCHAIN, python_of

ROOT = Path(__file__).parents[2]
PYTHON = TOOLCHAIN / "bin/python"
PROVIDER_KEY = "sk-provider-7f3a9c1e5b"
HEADER_SECRET = "tenant-secret-42c1"
GPT, CLAUDE = "outside/gpt", "outside/claude"


def missing() -> str:
    """Return why the adapter cannot run here, '' when it can."""
    try:
        python_of(TOOLCHAIN, LOCK)
    except Unavailable as error:
        return str(error)
    return ""


needs_litellm = pytest.mark.skipif(bool(missing()), reason=missing())

FILE = """
max_concurrency = 40
max_body_bytes = 100000

[models."outside/gpt"]
model = "openai/acme-chat-1"
api_base = "{openai}/v1"
api_key_env = "ACME_KEY"
serves = ["chat", "completions"]
headers = {{ x-team = "opc" }}
headers_env = {{ x-tenant-secret = "ACME_TENANT" }}
pass_fields = ["top_k"]
context_length = 32768

[models."outside/claude"]
model = "anthropic/claude-sonnet-4-5"
api_base = "{anthropic}"
api_key_env = "ACME_KEY"
serves = ["chat", "completions"]

[models."outside/lenient"]
model = "anthropic/claude-sonnet-4-5"
api_base = "{anthropic}"
api_key_env = "ACME_KEY"
drop_params = true

[models."outside/vectors"]
model = "openai/acme-embedding-1"
api_base = "{openai}/v1"
api_key_env = "ACME_KEY"
serves = ["embeddings"]

[models."outside/guard"]
model = "openai/acme-moderation-1"
api_base = "{openai}/v1"
api_key_env = "ACME_KEY"
serves = ["moderations"]

[models."outside/narrow"]
model = "openai/acme-chat-1"
api_base = "{openai}/v1"
max_concurrency = 1

[models."outside/hasty"]
model = "openai/acme-chat-1"
api_base = "{openai}/v1"
timeout_s = 0.5

[models."outside/gone"]
model = "openai/acme-chat-1"
api_base = "http://127.0.0.1:{closed}/v1"

[models."outside/unlisted"]
model = "anthropic/claude-sonnet-4-5"
api_key_env = "ACME_KEY"
"""


@dataclass
class Adapter:
    """A running adapter and the providers behind it; `said` is everything that it printed."""

    url: str
    key: str
    pid: int
    openai: Provider
    anthropic: Provider
    said: list[str] = field(default_factory=list)


@contextmanager
def adapter(folder: Path, key: str = "") -> Iterator[Adapter]:
    """Start `tokenmart serve litellm` with `FILE`; with a key when one is given."""
    with provider() as openai, provider() as anthropic, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        text = FILE.format(
            openai=openai.url, anthropic=anthropic.url, closed=nobody.getsockname()[1]
        )
        (folder / "adapter.toml").write_text(text)
        command = [sys.executable, "-m", "marketplace.cli", "serve", "litellm", "--port", "0"]
        process = subprocess.Popen(
            [*command, "--config", str(folder / "adapter.toml"), "--drain-seconds", "5"],
            env=os.environ
            | {"ACME_KEY": PROVIDER_KEY, "ACME_TENANT": HEADER_SECRET, "NO_PROXY": "127.0.0.1"}
            | {"TOKENMART_ENGINE_KEY": key, "PYTHONUNBUFFERED": "1"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said: list[str] = []
        try:
            while (line := process.stdout.readline()) and not line.startswith('{"ready"'):
                said.append(line)
            assert line, "".join(said)
            ready = json.loads(line)
            reader = threading.Thread(target=lambda: said.extend(process.stdout or ()))
            reader.start()
            yield Adapter(ready["url"], key, ready["pid"], openai, anthropic, said)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, "".join(said)
            reader.join()
            process.stdout.close()
