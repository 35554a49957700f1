"""Sockets, and what becomes of an engine whose parent dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

PARENT = """
import subprocess, sys, time
command = [sys.executable, "-m", "serving.onnx_engine", sys.argv[1], "--port", "0"]
child = subprocess.Popen([*command, "--exit-with-parent"], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), flush=True)
time.sleep(60)
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_no_orphan_outlives_a_killed_parent(variant: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(variant)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = json.loads(parent.stdout.readline())["pid"]
        assert _alive(pid)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while _alive(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_unix_socket_replaces_a_stale_one_and_is_removed(start: Any, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(path))
    engine = start("--uds", str(path))
    assert engine.url == f"http+unix://{path}"
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 OK" in connection.recv(4096)
    assert engine.stop() == 0
    assert not os.path.lexists(path)


def test_health_says_when_it_is_draining(start: Any) -> None:
    engine = start()
    host, port = engine.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))) as busy:
        body = json.dumps(
            {
                "model": engine.model,
                "prompt": [5],
                "n": 8,
                "max_tokens": engine.context_length - 1,
                "min_tokens": engine.context_length - 1,
            }
        )
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        key = f"Authorization: Bearer {engine.client.api_key}\r\nConnection: close\r\n\r\n"
        busy.sendall((head + key + body).encode())
        while engine.metric("sequences_running") == 0:
            time.sleep(0.005)
        engine.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
        with closing(socket.create_connection((host, int(port)))) as probe:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b" 503 " in probe.recv(4096)
        assert b" 200 OK" in busy.recv(4096), "what was running is answered to its end"
    assert engine.process.wait(timeout=10) == 0
