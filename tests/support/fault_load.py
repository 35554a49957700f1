"""Callers that keep the gateway busy and write down what they received; some of them misbehave on command.

    python -m support.fault_load PORT KEY MODEL SECURE_MODEL SEED CONNECTIONS LOG

Calls that are `secure` ask for SECURE_MODEL. Who has an Idempotency-Key repeats the call, whatever became
of it, until it has the answer twice or is told that there is none to be had. Every call becomes a line of
LOG: how it ended, when (CLOCK_MONOTONIC), and what of it had arrived. Lines on stdin: a JSON call
(`fault_plans`) is made at once on a connection of its own; `pause` answers `idle` when nothing runs any
more; `go` goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop
from support.fault_plans import Call, healthy

PATIENCE_S = 40.0
"""How long a caller waits for the whole answer; the gateway is broken when it needs longer."""
_AGAIN_S = 0.2
"""How long a caller waits who was refused, or found nobody listening."""
_INSIST_S = 75.0
"""How long a caller repeats a call under its key: a circuit breaker may wait for a minute."""
_PAUSE_S = (0.02, 0.5)
NO_MORE = ("idempotency_answer_gone", "idempotency_key_spent")
"""Codes that end it: the call was charged and its answer is not kept, or it has failed too often."""

Seen = dict[str, Any]


class Left(Exception):
    """The caller goes away."""


class Line:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, buffer_bytes: int = 0) -> Line:
        """Connect; `buffer_bytes` keeps the receive buffer small, for a caller that reads slowly."""
        sock = socket.socket()
        if buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        limit = buffer_bytes or 2**16
        return cls(*await asyncio.open_connection(sock=sock, limit=max(limit, 2**14)))

    def hang_up(self) -> None:
        """Close without another word."""
        self.writer.transport.abort()


class Caller:
    """Makes calls with one key. `models`: the one on plain connections, the one behind TLS."""

    def __init__(self, port: int, key: str, models: tuple[str, str]) -> None:
        self.port = port
        self._key = key
        self._models = models

    def request(self, call: Call) -> bytes:
        """Return the request's bytes."""
        document: dict[str, Any] = {
            "model": self._models[call["secure"]],
            "messages": [{"role": "user", "content": json.dumps(call["plan"])}],
            "max_tokens": call["plan"]["tokens"] + 8,
        }
        if call["stream"]:
            document["stream"] = True
            if call["usage"]:
                document["stream_options"] = {"include_usage": True}
        body = json.dumps(document).encode()
        once = f"idempotency-key: {call['key']}\r\n" if call["key"] else ""
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: tm\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._key}\r\n{once}content-length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def call(self, line: Line, call: Call) -> Seen:
        """Make one call and return what was seen of it; the line is closed unless it may be used again."""
        seen = begun(call)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._misbehaving(line, call, seen)
        except (Left, TimeoutError) as why:
            seen["how"] = "left" if isinstance(why, Left) else "timeout"
            seen["ended"] = (
                time.monotonic()
            )  # before the hanging up: the gateway cannot know earlier
            line.hang_up()
        except (OSError, asyncio.IncompleteReadError):
            seen["how"] = "broken"
            line.hang_up()
        seen["ended"] = seen["ended"] or time.monotonic()
        return seen

    async def _misbehaving(self, line: Line, call: Call, seen: Seen) -> None:
        client, request = call["client"], self.request(call)
        if client in ("leave_sending", "trickle"):
            line.writer.write(request[: len(request) // 2])
            await asyncio.sleep(call["after"])
            if client == "leave_sending":
                raise Left
            line.writer.write(request[len(request) // 2 :])
        else:
            line.writer.write(request)
        if client in ("leave_waiting", "impatient"):
            try:
                async with asyncio.timeout(call["after"] * (1 if client == "leave_waiting" else 2)):
                    await _answer(line, call, seen)
            except TimeoutError:
                raise Left from None
            return
        await _answer(line, call, seen)


def begun(call: Call) -> Seen:
    """Return the record of a call that begins now."""
    return {
        "call": call["plan"]["call"],
        "client": call["client"],
        "stream": call["stream"],
        "do": call["plan"]["do"],
        "secure": call["secure"],
        "key": call["key"],
        "replayed": False,
        "digest": "",
        "generation": "",
        "status": 0,
        "tokens": 0,
        "serial": "",
        "usage": None,
        "cost_u": None,
        "how": "",
        "words": "",
        "began": time.monotonic(),
        "ended": 0.0,
    }


async def _answer(line: Line, call: Call, seen: Seen) -> None:
    head = (await line.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    seen["status"] = int(head[0].split()[1])
    rows = [row.split(": ", 1) for row in head[1:] if ": " in row]
    headers = {name.lower(): value for name, value in rows}
    seen["generation"] = headers.get("x-tm-generation", "")
    seen["replayed"] = "idempotent-replayed" in headers
    if "content-length" in headers:
        body = await line.reader.readexactly(int(headers["content-length"]))
        if headers.get("content-type", "").startswith("text/event-stream"):
            events_at_once(seen, body)
        else:
            whole(seen, headers, body)
    else:
        await _events(line, call, seen)
    if headers.get("connection") == "close":
        line.hang_up()


def whole(seen: Seen, headers: dict[str, str], body: bytes) -> None:
    """Note an answer that came in one piece."""
    document = json.loads(body)
    if seen["status"] != 200:
        seen["how"], seen["words"] = "error", document["error"]
        return
    seen["serial"], seen["usage"] = document["id"], document["usage"]
    seen["tokens"] = document["choices"][0]["message"]["content"].count("w")
    if "x-tm-cost-u" in headers:
        seen["cost_u"] = int(headers["x-tm-cost-u"])
    seen["digest"] = hashlib.sha256(body).hexdigest()
    seen["how"] = "complete"


def events_at_once(seen: Seen, body: bytes) -> None:
    """Note a stream that was kept and came in one piece."""
    digest = hashlib.sha256()
    events = body.removesuffix(b"\n\n").split(b"\n\n")
    for event in events:
        _event(event, seen, digest)
    seen["digest"] = digest.hexdigest()
    seen["how"] = "complete" if events[-1] == b"data: [DONE]" else "broken"


async def _events(line: Line, call: Call, seen: Seen) -> None:
    text, client = b"", call["client"]
    done = failed = False
    digest = hashlib.sha256()
    while size := int(await line.reader.readuntil(b"\r\n"), 16):
        text += (await line.reader.readexactly(size + 2))[:-2]
        *events, text = text.split(b"\n\n")
        for event in events:
            done = done or event == b"data: [DONE]"
            failed = failed or event.startswith(b'data: {"error"')
            _event(event, seen, digest)
        if client == "leave_mid" and seen["tokens"] >= call["after"]:
            raise Left
        if client == "slow":
            await asyncio.sleep(0.01)
        if client == "stuck":
            await asyncio.sleep(call["after"])
            raise Left
    await line.reader.readexactly(2)
    seen["digest"] = digest.hexdigest()
    seen["how"] = "complete" if done and not failed else "error" if failed else "broken"


def _event(event: bytes, seen: Seen, digest: Any) -> None:
    # What it has cost is a comment, for those who were there; the answer is what stands in the events.
    if event.startswith(b": cost_u="):
        seen["cost_u"] = int(event[9:])
    if not event.startswith(b":"):
        digest.update(event + b"\n\n")
    if not event.startswith(b"data: {"):
        return
    chunk = json.loads(event[6:])
    if "error" in chunk:
        seen["words"] = chunk["error"]
        return
    seen["serial"] = chunk["id"]
    seen["usage"] = chunk.get("usage") or seen["usage"]
    if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
        seen["tokens"] += 1


class Load:
    """So many lines that call without a pause, and whatever is ordered beside them."""

    def __init__(self, caller: Caller, seed: str, lines: int, log: str) -> None:
        self._caller = caller
        self._seed = seed
        self._chance = random.Random(f"{seed}/again")
        self._lines = lines
        self._log = Path(log).open("a", buffering=1)  # noqa: SIM115  open for the process's life
        self._going = asyncio.Event()
        self._running = 0
        self._extra: set[asyncio.Task[None]] = set()

    async def one_line(self, number: int) -> None:
        """Call again and again on one connection; a new one when it has been closed."""
        chance = random.Random(f"{self._seed}/{number}")
        line: Line | None = None
        made = 0
        while True:
            if not self._going.is_set():
                if line is not None:
                    line.hang_up()
                line = None
                await self._going.wait()
            self._running += 1
            try:
                if line is None or line.writer.is_closing() or line.reader.at_eof():
                    line = await Line.open(self._caller.port)
                made += 1
                call = healthy(chance, f"{self._seed}-{number}-{made}")
                seen = await self._caller.call(line, call)
                self._write(seen)
                if call["key"]:
                    self._beside(self._insist(call, seen))
                if seen["how"] == "error":
                    await asyncio.sleep(_AGAIN_S)
            except OSError:
                await asyncio.sleep(_AGAIN_S)
            finally:
                self._running -= 1
            await asyncio.sleep(chance.uniform(0, 0.05))

    def order(self, call: Call) -> None:
        """Make one call beside the others."""
        self._beside(self._ordered(call))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._extra.add(task)
        task.add_done_callback(self._extra.discard)

    async def _ordered(self, call: Call) -> None:
        with contextlib.suppress(OSError):
            line = await Line.open(
                self._caller.port, 4096 if call["client"] in ("slow", "stuck") else 0
            )
            seen = await self._caller.call(line, call)
            self._write(seen)
            line.hang_up()
            if call["key"]:
                await self._insist(call, seen)

    async def _insist(self, call: Call, seen: Seen) -> None:
        """Repeat a call under its key, on new connections, until nothing is left to be learnt."""
        again = call | {"client": "patient"}
        answered, until = 0, time.monotonic() + _INSIST_S
        while time.monotonic() < until:
            answered += seen["how"] == "complete"
            code = seen["words"].get("code") if isinstance(seen["words"], dict) else ""
            if answered > 1 or code in NO_MORE:
                return
            await asyncio.sleep(self._chance.uniform(*_PAUSE_S))
            try:
                line = await Line.open(self._caller.port)
            except OSError:
                seen = begun(again)
                continue
            seen = await self._caller.call(line, again)
            self._write(seen)
            line.hang_up()

    def _write(self, seen: Seen) -> None:
        self._log.write(json.dumps(seen) + "\n")

    async def pause(self) -> None:
        """Return when no call runs any more."""
        self._going.clear()
        while self._running or self._extra:
            await asyncio.sleep(0.02)

    def go(self) -> None:
        self._going.set()

    async def obey(self) -> None:
        """Follow what stdin says until it ends."""
        lines = [asyncio.ensure_future(self.one_line(n)) for n in range(self._lines)]
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while order := (await reader.readline()).decode().strip():
            if order == "pause":
                await self.pause()
                print("idle", flush=True)
            elif order == "go":
                self.go()
            else:
                self.order(json.loads(order))
        for line in lines:
            line.cancel()


async def _main() -> None:
    port, key, model, secure, seed, lines, log = sys.argv[1:]
    await Load(Caller(int(port), key, (model, secure)), seed, int(lines), log).obey()


if __name__ == "__main__":
    uvloop.run(_main())
