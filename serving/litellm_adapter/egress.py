"""Which hosts this process may speak to: those that its file lists, on those ports, and no others.

What a request says must not choose a destination, and litellm has many ways to be talked into one (an
image's address, a tokenizer to download, a provider's own redirect). So the rule does not stand in front of
litellm but below everything: an audit hook of the interpreter sees every name that is looked up and every
connection that is opened, by whatever library, and cannot be taken out again. It needs asyncio's own loop:
uvloop connects without the interpreter's sockets.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Any

from serving.litellm_adapter.config import Host


class EgressRefused(PermissionError):
    """A host that is not on the list. An `OSError`, so that clients treat it as a failed connection."""

    def __init__(self, host: str, port: object) -> None:
        super().__init__(f"{host}:{port} is not an allowed host")
        self.host = host


class Egress:
    """The rule; `install` puts it below everything, for the rest of the process's life."""

    def __init__(self, hosts: frozenset[Host]) -> None:
        self._hosts = hosts
        self._resolved: set[Host] = set()

    def install(self) -> None:
        """Begin to hold the rule."""
        look_up = socket.getaddrinfo

        # The audit event comes before the answer, and a connection only knows the answer's address.
        def getaddrinfo(host: Any, port: Any, *more: Any, **named: Any) -> Any:
            found = look_up(host, port, *more, **named)
            self._resolved.update((str(entry[4][0]), int(entry[4][1])) for entry in found)
            return found

        socket.getaddrinfo = getaddrinfo
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise `EgressRefused` for a look-up or a connection that the list does not allow."""
        if event == "socket.getaddrinfo":
            host, port = arguments[0], arguments[1]
            name = host.decode() if isinstance(host, bytes) else str(host)
            if (name.lower(), _number(port)) not in self._hosts:
                raise EgressRefused(name, port)
        elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = arguments[1]
            if address is None:
                return  # a socket that is connected already
            if not isinstance(address, tuple):
                raise EgressRefused(str(address), "")  # a Unix socket
            place = (str(address[0]).lower(), int(address[1]))
            if place not in self._hosts and place not in self._resolved:
                raise EgressRefused(*place)
        elif event in ("socket.gethostbyname", "socket.gethostbyaddr"):
            raise EgressRefused(str(arguments[0]), "")


def _number(port: Any) -> int:
    try:
        return int(port)
    except (TypeError, ValueError):
        return -1


def refused(error: BaseException) -> EgressRefused | None:
    """Return the refusal that an error came from, if one did."""
    return next((e for e in causes(error) if isinstance(e, EgressRefused)), None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything that it came from, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        more = [found.__cause__, found.__context__, getattr(found, "original_exception", None)]
        more += getattr(found, "exceptions", ())
        waiting += [item for item in more if isinstance(item, BaseException)]
