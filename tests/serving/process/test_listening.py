"""Addresses, and what may be imported before an engine knows that it has one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.ground.errors import Conflict
from serving.process.listening import open_socket, url_of

ROOT = Path(__file__).parents[3]

EARLY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import serving.process.listening, serving.process.options, serving.process.parent
print(json.dumps([name for name in ("msgspec", "starlette", "uvicorn") if name in sys.modules]))
"""


def test_the_url_of_a_free_port() -> None:
    with open_socket("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_stands_in_brackets() -> None:
    try:
        listener = open_socket("::1", 0)
    except Conflict as refused:
        pytest.skip(str(refused))
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_a_port_that_somebody_listens_on() -> None:
    with open_socket("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(Conflict, match=f"Cannot listen on 127.0.0.1:{port}") as caught:
            open_socket("127.0.0.1", port)
    assert caught.value.code == "address_taken"


def test_an_address_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="0-65535"):
        open_socket("127.0.0.1", 65_536)
    with pytest.raises(Conflict, match="too long"):
        open_socket("", 0, str(tmp_path / ("x" * 200)))


def test_a_unix_socket_that_answers_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with open_socket("", 0, str(path)) as first:
        first.listen()
        assert url_of(first) == f"http+unix://{path}"
        with pytest.raises(Conflict, match="Cannot listen on"):
            open_socket("", 0, str(path))
        assert path.is_socket()


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("kept")
    with pytest.raises(Conflict):
        open_socket("", 0, str(path))
    assert path.read_text() == "kept"


def test_what_comes_before_the_heavy_imports_is_light() -> None:
    command = [sys.executable, "-I", "-c", EARLY, str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []
