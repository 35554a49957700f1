"""The adapter as a process: how it starts, drains and says what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest
from support.adapter import GPT, PYTHON, ROOT, adapter, needs_litellm
from support.market import wait_until

from catalog.ground.errors import Unavailable
from serving.litellm_adapter.launch import python_of

MINIMAL = '[models.m]\nmodel = "openai/x"\napi_base = "http://127.0.0.1:1/v1"\n'


def serve(folder: Path, *arguments: str, text: str = MINIMAL) -> subprocess.CompletedProcess[str]:
    (folder / "adapter.toml").write_text(text)
    command = [sys.executable, "-m", "marketplace.cli", "serve", "litellm"]
    return subprocess.run(
        [*command, "--config", str(folder / "adapter.toml"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_needs_no_litellm(tmp_path: Path) -> None:
    run = serve(tmp_path, "--help")
    assert run.returncode == 0
    assert "--config" in run.stdout


def test_a_file_that_will_not_do_is_refused_before_anything_starts(tmp_path: Path) -> None:
    run = serve(tmp_path, text='[models.m]\nmodel = "openai/x"\napi_key_env = "NOT_SET_AT_ALL"\n')
    assert run.returncode == 2
    assert run.stdout == ""
    assert "NOT_SET_AT_ALL" in run.stderr or "allowed_hosts" in run.stderr


def test_the_way_out_where_the_environment_is_missing_or_old(tmp_path: Path) -> None:
    lock = tmp_path / "litellm.lock"
    lock.write_text("litellm==1\n")
    with pytest.raises(Unavailable, match="make toolchain-litellm") as caught:
        python_of(tmp_path / "none", lock)
    assert caught.value.code == "toolchain_missing"
    toolchain = tmp_path / "made"
    (toolchain / "bin").mkdir(parents=True)
    (toolchain / "bin/python").touch()
    (toolchain / "installed.lock").write_text("litellm==0\n")
    with pytest.raises(Unavailable, match="make toolchain-litellm") as caught:
        python_of(toolchain, lock)
    assert caught.value.code == "toolchain_old"
    (toolchain / "installed.lock").write_text("litellm==1\n")
    assert python_of(toolchain, lock) == toolchain / "bin/python"


@needs_litellm
def test_an_address_that_is_taken(tmp_path: Path) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        run = serve(tmp_path, "--port", str(other.getsockname()[1]))
    assert run.returncode == 2
    assert "Cannot listen" in run.stderr


@needs_litellm
def test_sigterm_lets_an_open_answer_end(tmp_path: Path) -> None:
    with adapter(tmp_path) as running:
        running.openai.behave(words=("a", "b") * 20, pause_s=0.05)
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="-", max_retries=0) as client:
            chat = client.chat.completions
            messages = [{"role": "user", "content": "x"}]
            stream = chat.create(model=GPT, messages=messages, stream=True)  # type: ignore[call-overload]
            next(stream)
            os.kill(running.pid, signal.SIGTERM)
            wait_until(lambda: health(running.url) == (503, "draining"))
            with pytest.raises(openai.InternalServerError) as caught:
                chat.create(model=GPT, messages=messages)  # type: ignore[call-overload]
            assert caught.value.code == "engine_draining"
            assert len(list(stream)) > 20


def health(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["status"]


@needs_litellm
def test_it_runs_in_an_environment_of_its_own(tmp_path: Path) -> None:
    program = ROOT / "serving/litellm_adapter/__main__.py"
    run = subprocess.run(
        [PYTHON, "-I", "-c", PROBE, str(program)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [True, False]


PROBE = """
import importlib.util, json, runpy, sys
runpy.run_path(sys.argv[1])
import serving.litellm_adapter
found = importlib.util.find_spec("marketplace") is not None
print(json.dumps(["serving.litellm_adapter" in sys.modules, found]))
"""
