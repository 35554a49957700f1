"""One process at a time: a lock on a file, which goes with the process however that ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from catalog.ground.errors import Conflict


@contextlib.contextmanager
def alone(path: Path, taken: Conflict) -> Iterator[None]:
    """Hold the lock on `path`, which is made when it is missing; `taken` is raised where another holds it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        yield
