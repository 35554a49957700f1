"""Engines that speak as vLLM does and misbehave as a call's plan says (`fault_plans`).

    python -m support.faulty_engine LOG [CERTIFICATE KEY]

Two on plain connections, and two behind TLS where there is a certificate for them (PEM files).
Prints `{"ports": [a, b, c, d]}`. Each attempt becomes a line of LOG when it ends: its serial number, the
generation that asked, the plan, how many tokens were emitted, whether the answer was `sent` whole, the
engine `broke` it off or the gateway `aborted` it, and when (CLOCK_MONOTONIC). Lines on stdin: `down N S`
takes engine N away for S seconds, `open` prints the attempts that run.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Any, cast

import httptools
import uvloop
from support.certificates import Certificate

_RESET = struct.pack("ii", 1, 0)
_STATUS = {"500": "Internal Server Error", "503": "Service Unavailable", "429": "Too Many Requests"}


class Engines:
    """The listeners and the log; number 0 and 1 are plain, 2 and 3 are behind TLS."""

    def __init__(self, log: str, tls: ssl.SSLContext | None = None) -> None:
        self._tls: list[ssl.SSLContext | None] = [None, None, *([tls, tls] if tls else [])]
        self._log = Path(log).open("a", buffering=1)  # noqa: SIM115  open for the process's life
        self._tries: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []
        self.ports: list[int] = []
        self.serial = 0
        self.open: dict[int, dict[str, Any]] = {}
        self.connections: list[set[Connection]] = [set() for _ in self._tls]

    async def start(self) -> None:
        for number in range(len(self._tls)):
            self._servers.append(await self._listen(number, 0))
            self.ports.append(self._servers[number].sockets[0].getsockname()[1])

    async def _listen(self, number: int, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(
            lambda: Connection(self, number),
            "0.0.0.0",  # every address of this machine, so that one engine can have several
            port,
            backlog=512,
            ssl=self._tls[number],
        )

    async def down(self, number: int, seconds: float) -> None:
        """Close an engine's listener and all its connections, as when its process dies."""
        self._servers[number].close()
        for connection in list(self.connections[number]):
            connection.die()
        await asyncio.sleep(seconds)
        self._servers[number] = await self._listen(number, self.ports[number])

    def begin(self, number: int, generation: str, plan: dict[str, Any]) -> dict[str, Any]:
        """Open the record of an attempt."""
        self.serial += 1
        self._tries[generation] = turn = self._tries.get(generation, -1) + 1
        record = {
            "serial": self.serial,
            "engine": number,
            "generation": generation,
            "turn": turn,
            "plan": plan,
            "emitted": 0,
            "end": "",
            "began": time.monotonic(),
        }
        self.open[self.serial] = record
        return record

    def end(self, record: dict[str, Any], how: str) -> None:
        """Close it; the first end counts."""
        if self.open.pop(record["serial"], None) is not None:
            record["end"], record["ended"] = how, time.monotonic()
            self._log.write(json.dumps(record) + "\n")


class Connection(asyncio.Protocol):
    """One connection of the gateway's."""

    def __init__(self, engines: Engines, number: int) -> None:
        self._engines = engines
        self._number = number
        self._record: dict[str, Any] | None = None
        self._work: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._ready.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._engines.connections[self._number].add(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engines.connections[self._number].discard(self)
        self._ready.set()
        if self._record is not None:
            self._engines.end(self._record, "aborted")
        if self._work is not None:
            self._work.cancel()

    def pause_writing(self) -> None:
        self._ready.clear()

    def resume_writing(self) -> None:
        self._ready.set()

    def die(self) -> None:
        """Break off, as a process that is killed."""
        if self._record is not None:
            self._engines.end(self._record, "broke")
        self._transport.abort()

    def on_message_begin(self) -> None:
        self._url = self._body = b""
        self._generation = ""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._generation = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        request = json.loads(self._body)
        if self._url.endswith(b"/tokenize"):
            self._whole(200, {"count": _count(request)})
            return
        plan = _plan(request)
        self._record = record = self._engines.begin(self._number, self._generation, plan)
        do = plan["do"][min(record["turn"], len(plan["do"]) - 1)]
        answer = self._stream if request.get("stream") else self._answer
        self._work = asyncio.ensure_future(answer(record, plan, do, request))

    # The answers.

    async def _answer(
        self, record: dict[str, Any], plan: dict[str, Any], do: str, request: dict[str, Any]
    ) -> None:
        if await self._fails_at_once(record, do):
            return
        await asyncio.sleep(plan["pace_ms"] / 1000)
        message = {"role": "assistant", "content": "w " * plan["tokens"]}
        document = {
            "id": f"chatcmpl-{record['serial']}",
            "object": "chat.completion",
            "created": 1,
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(plan, plan["tokens"]),
        }
        if do.endswith("_mid") or do == "short":
            body = json.dumps(document).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            self._transport.write(head + body[: len(body) // 2])
            await self._breaks(record, do)
            return
        record["emitted"] = plan["tokens"]
        self._ended(record)
        self._whole(200, document)

    async def _stream(
        self, record: dict[str, Any], plan: dict[str, Any], do: str, request: dict[str, Any]
    ) -> None:
        if await self._fails_at_once(record, do):
            return
        head: dict[str, Any] = {"id": f"chatcmpl-{record['serial']}"}
        head["object"] = "chat.completion.chunk"
        head |= {"created": 1, "model": request["model"]}
        every = (request.get("stream_options") or {}).get("continuous_usage_stats")
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        self._event(head | _delta({"role": "assistant", "content": ""}))
        for made in range(1, plan["tokens"] + 1):
            if (do.endswith("_mid") or do in ("short", "error_event")) and made > plan["at"]:
                await self._breaks(record, do)
                return
            await self._ready.wait()
            told = {"usage": _usage(plan, made)} if every else {}
            record["emitted"] = made
            self._event(head | _delta({"content": "w " + "x" * plan["pad"]}) | told)
            await asyncio.sleep(plan["pace_ms"] / 1000)
        last = {"usage": _usage(plan, plan["tokens"])}
        self._event(head | _delta({}, "stop") | (last if every else {}))
        if request.get("stream_options"):
            self._event(head | {"choices": []} | last)
        if do != "no_done":
            self._data(b"data: [DONE]\n\n")
        self._transport.write(b"0\r\n\r\n")
        self._ended(record, "broke" if do == "no_done" else "sent")

    async def _fails_at_once(self, record: dict[str, Any], do: str) -> bool:
        if do == "hang":
            await asyncio.sleep(600)
        elif do == "reset":
            self._reset(record)
        elif do == "close":
            self._ended(record, "broke")
            self._transport.close()
        elif do == "garbage":
            self._ended(record, "broke")
            self._transport.write(b"\x00\xff what is this?\r\n\r\n")
        elif do in _STATUS:
            self._ended(record, "broke")
            self._whole(int(do), {"error": {"message": _STATUS[do], "code": "engine"}})
        else:
            return False
        return True

    async def _breaks(self, record: dict[str, Any], do: str) -> None:
        await asyncio.sleep(0.01)  # so that what was emitted has left before the connection breaks
        if do == "hang_mid":
            await asyncio.sleep(600)
        elif do == "reset_mid":
            self._reset(record)
        elif do == "garbage_mid":
            self._ended(record, "broke")
            self._transport.write(b"this is no chunk\r\n\r\n")
        elif do == "error_event":
            self._ended(record, "broke")
            self._data(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')
            self._transport.write(b"0\r\n\r\n")
        else:  # close_mid, short
            self._ended(record, "broke")
            self._transport.close()

    def _reset(self, record: dict[str, Any]) -> None:
        self._ended(record, "broke")
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _ended(self, record: dict[str, Any], how: str = "sent") -> None:
        self._engines.end(record, how)
        self._record = None

    def _event(self, chunk: dict[str, Any]) -> None:
        self._data(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")

    def _data(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _whole(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 {status} {_STATUS.get(str(status), 'OK')}\r\ncontent-length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)


def _delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _usage(plan: dict[str, Any], made: int) -> dict[str, Any]:
    return {
        "prompt_tokens": plan["prompt"],
        "completion_tokens": made,
        "total_tokens": plan["prompt"] + made,
        "prompt_tokens_details": {"cached_tokens": plan["cached"]},
    }


def _plan(request: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request["messages"][-1]["content"])
    return found


def _count(request: dict[str, Any]) -> int:
    """Return the plan's prompt tokens; what was made has one token for each word."""
    if "messages" in request:
        return int(_plan(request)["prompt"])
    return len(str(request.get("prompt", "")).split())


async def _serve(log: str, *pair: str) -> None:
    tls = Certificate(*map(Path, pair)).server() if pair else None
    engines = Engines(log, tls)
    await engines.start()
    print(json.dumps({"ports": engines.ports}), flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    downs: set[asyncio.Task[None]] = set()
    while line := (await reader.readline()).decode().split():
        if line[0] == "down":
            task = asyncio.ensure_future(engines.down(int(line[1]), float(line[2])))
            downs.add(task)
            task.add_done_callback(downs.discard)
        else:
            print(json.dumps(list(engines.open.values())), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
