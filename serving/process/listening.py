"""The address: settled first, because an engine that cannot listen should not load anything to find out."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from catalog.ground.errors import Conflict


def open_socket(host: str, port: int, uds: str | None = None) -> socket.socket:
    """Bind a host and port, or a Unix socket instead; `Conflict` when somebody is there already."""
    if uds is not None:
        _remove_stale(Path(uds))
        listener = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = uds
        place = uds
    else:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        address = (host, port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place = f"{host}:{port}"
    try:
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or error
        raise Conflict(f"Cannot listen on {place}: {why}.", code="address_taken") from None
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket file that a killed engine left behind; one that answers is not touched."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()


def url_of(listener: socket.socket) -> str:
    """Return the base URL of a bound socket; a Unix socket is given as `http+unix://PATH`."""
    if listener.family == socket.AF_UNIX:
        return f"http+unix://{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
