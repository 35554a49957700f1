"""Hand an open connection to another process, with what has been read of it (SCM_RIGHTS, unix(7)).

The worker at the door answers model calls and nothing else. A connection that asks for something else goes
to the office as it is, file descriptor and first bytes, and comes back when it makes a call again. Nobody
stands between a client and whoever answers it, so an upload or a download costs what it would cost alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, cast

CALLS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/moderations",
)
"""What a worker answers, by POST; everything else is the office's."""
_STARTS = tuple(f"POST {path}{end}".encode() for path in CALLS for end in " ?")
_LONGEST_START = max(map(len, _STARTS))
_PART = 60_000
_BUFFER = 4 * 1024 * 1024
_DRAINED_S = 0.01

Adopt = Callable[[socket.socket, bytes], None]


def is_call(data: bytes) -> bool | None:
    """Return whether a request that begins with `data` is a worker's, None when that is not clear yet."""
    if data.startswith(_STARTS):
        return True
    if len(data) < _LONGEST_START and any(start.startswith(data) for start in _STARTS):
        return None
    return False


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a passage."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return ends


class Passage:
    """One end: `send` gives connections away, `adopt` is called with those that come.

    The first message of a connection carries its descriptor and the length of what was read; what does
    not fit follows in messages of its own, and nothing comes between, because each end has one sender.
    """

    def __init__(self, end: socket.socket, adopt: Adopt) -> None:
        self._end = end
        self._adopt = adopt
        self._loop = asyncio.get_running_loop()
        self._arriving: tuple[socket.socket, bytearray, int] | None = None
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, connection: socket.socket | int, read: bytes) -> bool:
        """Give a connection away; False when the other side is too far behind or gone (keep it then)."""
        descriptor = connection if isinstance(connection, int) else connection.fileno()
        parts = [read[at : at + _PART] for at in range(0, len(read), _PART)] or [b""]
        first = len(read).to_bytes(4, "big") + parts[0]
        try:
            socket.send_fds(self._end, [first], [descriptor])
            for part in parts[1:]:
                self._end.send(part)
        except (BlockingIOError, BrokenPipeError, ConnectionError, OSError):
            return False
        return True

    def _readable(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._end, _PART + 4, 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self.close()
                return
            if descriptors:
                self._drop()
                came = socket.socket(fileno=descriptors[0])
                self._arriving = (came, bytearray(data[4:]), int.from_bytes(data[:4], "big"))
            elif self._arriving is not None:
                self._arriving[1].extend(data)
            if self._arriving is not None and len(self._arriving[1]) >= self._arriving[2]:
                came, read, _ = self._arriving
                self._arriving = None
                came.setblocking(False)
                self._adopt(came, bytes(read))

    def _drop(self) -> None:
        if self._arriving is not None:
            self._arriving[0].close()
            self._arriving = None

    def close(self) -> None:
        """Close this end."""
        self._drop()
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
            self._end.close()


def give_away(transport: asyncio.Transport, read: bytes, passage: Passage) -> None:
    """Hand the transport's connection over once everything written to it has left; close it when refused."""
    loop = asyncio.get_running_loop()

    def now() -> None:
        if transport.is_closing():
            return
        if transport.get_write_buffer_size():
            loop.call_later(_DRAINED_S, now)
            return
        passage.send(cast(Any, transport.get_extra_info("socket")).fileno(), read)
        # Closing ours leaves the other process's descriptor of the same connection open.
        transport.abort()

    transport.pause_reading()
    now()


def no_delay(connection: socket.socket) -> None:
    """Send small pieces at once (as the loops do for connections that they accept themselves)."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def inherit(descriptor: int) -> socket.socket:
    """Return the socket behind a descriptor that the parent left open for this process."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
