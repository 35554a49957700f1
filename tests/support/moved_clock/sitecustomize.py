"""Python imports this when it starts: the wall clock is as far off as the file MOVED_CLOCK says (ns)."""

import mmap
import os
import time
from pathlib import Path

_true_ns = time.time_ns


def _move(path: str) -> None:
    with Path(path).open("rb") as file:
        offset = memoryview(mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)).cast("q")

    def time_ns() -> int:
        return _true_ns() + offset[0]

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if "MOVED_CLOCK" in os.environ:
    _move(os.environ["MOVED_CLOCK"])
