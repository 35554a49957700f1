"""The compiled part with AddressSanitizer and UndefinedBehaviorSanitizer, and Python processes that load it.

What is handed to it as `bytes` ends where its memory ends (`exact`): reading one byte too far is reported.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from marketplace.gateway.express import build


class NoSanitizer(Exception):
    """There is no compiler here, or none with these sanitizers; the words say what is missing."""


ADDRESSES, THREADS = "sanitized", "threads"
_LIBRARIES = {ADDRESSES: "libasan.so", THREADS: "libtsan.so"}


def sanitized(folder: Path, variant: str = ADDRESSES) -> dict[str, str]:
    """Compile a variant into `folder`; return the environment in which Python and its children load it.

    What a sanitizer has to say it says to the file `folder`/report.<process>, and ends the process.
    """
    try:
        compiler = build._compiler()
        preloaded = [_library(compiler, name) for name in (_LIBRARIES[variant], "libstdc++.so")]
        core = build.place(build.build(variant), folder)
    except build.Unbuildable as missing:
        raise NoSanitizer(str(missing)) from None
    known = os.environ.get("PYTHONPATH", "")
    log = f"log_path={folder / 'report'}"
    return {
        "OTHER_CORE": str(core),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "other_core"), known]),
        # Python itself knows nothing of sanitizers, so they have to be there before it; and what they know
        # of memory comes from malloc, which Python asks for large pieces only unless it is told otherwise.
        "LD_PRELOAD": " ".join(preloaded),
        "PYTHONMALLOC": "malloc",
        # Python never returns all of its memory, so that leaks are looked for by its growth (`allocated`).
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1:quarantine_size_mb=16:"
        f"allocator_may_return_null=1:{log}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{log}",
        "TSAN_OPTIONS": f"halt_on_error=1:report_signal_unsafe=0:{log}",
    }


def reports(folder: Path) -> str:
    """Return what sanitizers have said."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("report.*")))


def _library(compiler: list[str], name: str) -> str:
    asked = [*compiler, f"-print-file-name={name}"]
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        raise NoSanitizer(f"{shlex.join(compiler)} has no {name}")
    return path


def _sanitizer() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.__asan_poison_memory_region.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.__sanitizer_get_current_allocated_bytes.restype = ctypes.c_size_t
    return library


def allocated() -> int:
    """Return how many bytes this process has asked for and not given back."""
    return int(_sanitizer().__sanitizer_get_current_allocated_bytes())


def exactly() -> Callable[[bytes], bytes]:
    """Return a function that makes `bytes` whose closing NUL, which Python adds, must not be read.

    Only Python's own code, which is not compiled with sanitizers, may look at it.
    """
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        return bytes
    poison = _sanitizer().__asan_poison_memory_region
    before = bytes.__basicsize__ - 1

    def exact(data: bytes) -> bytes:
        if len(data) < 2:
            return data  # Python has these once
        own = bytes(bytearray(data))
        poison(id(own) + before + len(own), 1)
        return own

    return exact
