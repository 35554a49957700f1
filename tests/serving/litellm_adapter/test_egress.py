"""The rule below everything: in a process of its own, because it cannot be taken out again."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from serving.litellm_adapter.egress import EgressRefused, causes, refused

ROOT = Path(__file__).parents[3]
STORY = """
import asyncio, json, socket, sys, urllib.request
from serving.litellm_adapter.egress import Egress, EgressRefused, refused
port = int(sys.argv[1])
Egress(frozenset({("localhost", port)})).install()

def outcome(do):
    try:
        do()
    except Exception as error:
        return "refused" if refused(error) else type(error).__name__
    return "open"

async def stream(host, port):
    (await asyncio.open_connection(host, port))[1].close()

def udp():
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", 53))

def unix():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("/nowhere")

print(json.dumps({
    "unlisted address": outcome(lambda: socket.create_connection(("127.0.0.1", port)).close()),
    "listed name": outcome(lambda: asyncio.run(stream("localhost", port))),
    "its address, now that it is known": outcome(lambda: asyncio.run(stream("127.0.0.1", port))),
    "another port": outcome(lambda: asyncio.run(stream("localhost", port + 1))),
    "another name": outcome(lambda: urllib.request.urlopen("http://evil.example/")),
    "a metadata service": outcome(lambda: asyncio.run(stream("169.254.169.254", 80))),
    "a datagram": outcome(udp),
    "a Unix socket": outcome(unix),
    "an old look-up": outcome(lambda: socket.gethostbyname("evil.example")),
}))
"""


def test_only_listed_hosts_on_their_ports() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        run = subprocess.run(
            [sys.executable, "-c", STORY, str(listener.getsockname()[1])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "unlisted address": "refused",
        "listed name": "open",
        "its address, now that it is known": "open",
        "another port": "refused",
        "another name": "refused",
        "a metadata service": "refused",
        "a datagram": "refused",
        "a Unix socket": "refused",
        "an old look-up": "refused",
    }


def test_a_refusal_is_found_wherever_libraries_have_put_it() -> None:
    refusal = EgressRefused("evil.example", 443)
    outer = RuntimeError("litellm's words")
    middle = ExceptionGroup("two tries", [ValueError(), refusal])
    outer.__context__ = middle
    middle.__context__ = outer  # a circle, as re-raised errors make them
    assert refused(outer) is refusal
    assert refused(ValueError()) is None
    assert len(list(causes(outer))) == 4
