"""The compiled part of the express lane."""

from typing import Any, Protocol

from marketplace.gateway.door import Connection

sources: str
"""What it was compiled from: `build.fingerprint()` of the sources of that day."""

class Hooks(Protocol):
    """What the compiled part asks of Python."""

    def connection(self, transport: Any) -> Connection:
        """Return Python's side of a connection; its `connection_made` has been called with the transport."""

class Core:
    """All sockets of one worker, and the lane. `hooks` is a `lane.Hooks`."""

    def __init__(
        self,
        hooks: Any,
        *,
        listener: int = -1,
        body_limit: int,
        connect_s: float,
        silence_s: float,
    ) -> None: ...
    def fileno(self) -> int:
        """Return the descriptor that is readable when `poll` has something to do."""
    def poll(self) -> None: ...
    def look_around(self) -> None:
        """Notice who is late; to be called some ten times a second."""
    def adopt(self, fd: int, read: bytes) -> None:
        """Serve a connection; the descriptor is the core's from now on."""
    def stop_listening(self) -> None: ...
    def close_idle(self) -> None: ...
    @property
    def connections(self) -> int: ...
    def lane(self, what: str, *arguments: Any) -> Any:
        """Ask the lane: learn, forget, heard, running, told, charges, close (see `lane.Express`)."""
