"""Compile the express lane into this folder.

    python -m marketplace.gateway.express.build [--debug | --sanitized | --threads] [--ahead | --into FOLDER]

`make up` and `make test` do this, and `hatch_build.py` for a wheel or an editable installation. What has
to be compiled is decided by what the files say, so that asking again costs nothing. From the environment:

    CXX, CXXFLAGS             the compiler (else c++, g++ or clang++), and flags beside ours
    TOKENMART_EXPRESS_BUILD   `auto`: where nothing can be compiled, a line says so and Python serves every
                              call; `required`: that is an error; `off`: compile nothing

Only the standard library is used: where a wheel is built there is nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILT = ROOT / "build" / "express"

_FLAGS = [
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
]
VARIANTS = {
    # What a worker loads: it reads strangers' bytes, so what the compiler can check at no cost is checked.
    "release": "-O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -D_GLIBCXX_ASSERTIONS "
    "-fstack-protector-strong -fno-plt",
    "debug": "-Og -g3 -D_GLIBCXX_ASSERTIONS",
    "sanitized": "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined "
    "-fno-sanitize-recover=all -D_GLIBCXX_ASSERTIONS -D_GLIBCXX_SANITIZE_VECTOR",
    "threads": "-O1 -g1 -fno-omit-frame-pointer -fsanitize=thread",
}
_LINK = ["-shared", "-Wl,-z,relro,-z,now,-z,noexecstack", "-Wl,--as-needed"]
_LIBRARIES = ["-ldl", "-lpthread"]
_PROBE = "#include <Python.h>\n#include <string_view>\nstd::string_view nothing;\n"
_INSTALL = "Debian or Ubuntu: apt-get install g++ python3-dev"


class Unbuildable(Exception):
    """There is nothing to compile with here; the words say what is missing."""


class CompileFailed(Exception):
    """The compiler is there and refused."""

    def __init__(self, said: str) -> None:
        way_out = "To go on without it: TOKENMART_EXPRESS_BUILD=off"
        super().__init__(f"{said.rstrip()}\nThe express lane could not be compiled. {way_out}")


def target_name() -> str:
    """Return the extension's file name for the Python that runs this."""
    return f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"


def fingerprint() -> str:
    """Return what the sources are, in hex; `_core.sources` is that of the sources it was compiled from.

    It is empty where there are no sources (an installed wheel).
    """
    digest, sources = hashlib.sha256(), [*HERE.glob("*.cpp"), *HERE.glob("*.hpp")]
    for path in sorted(sources):
        content = path.read_bytes()
        digest.update(b"%s %d\n%s" % (path.name.encode(), len(content), content))
    return digest.hexdigest()[:32] if sources else ""


def is_stale(extension: ModuleType) -> bool:
    """Return whether `_core` was compiled from other sources than those beside it; they may not fit
    the Python that is there now. Reading the sources takes a millisecond, once for each worker.
    """
    return fingerprint() not in ("", extension.sources)


def build(variant: str = "release") -> Path:
    """Compile what has changed and link it; return the linked file, which lies under `BUILT`.

    Raises `Unbuildable` or `CompileFailed`.
    """
    compiler = _compiler()
    folder = BUILT / f"{variant}{target_name().removeprefix('_core').removesuffix('.so')}"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone():
        return _link(compiler, variant, folder)


def place(linked: Path, folder: Path = HERE) -> Path:
    """Put a linked file where Python finds it; a worker that has the one before keeps what it has."""
    target = folder / target_name()
    content = linked.read_bytes()
    if not target.exists() or target.read_bytes() != content:
        # Never into the old file: running workers have its pages.
        beside = target.with_suffix(f".{os.getpid()}")
        beside.write_bytes(content)
        beside.replace(target)
    return target


def _compiler() -> list[str]:
    """Return the command that compiles C++17 with Python's headers."""
    if sys.platform != "linux":
        raise Unbuildable("the compiled part needs Linux")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise Unbuildable("the compiled part needs a Python with its interpreter lock")
    if not (_include() / "Python.h").exists():
        raise Unbuildable("Python's headers are not installed")
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([*command, "--version"], check=True, capture_output=True)
            return command
    raise Unbuildable(f"there is no C++ compiler ({' '.join(named) or 'c++, g++, clang++'})")


def _include() -> Path:
    return Path(sysconfig.get_paths()["include"])


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let the others who build in this tree wait."""
    import fcntl

    with (BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _link(compiler: list[str], variant: str, folder: Path) -> Path:
    # No path of this machine goes into what is built.
    own = [*VARIANTS[variant].split(), *shlex.split(os.environ.get("CXXFLAGS", ""))]
    compile_ = [*compiler, *_FLAGS, f"-ffile-prefix-map={ROOT}=.", *own, f"-I{_include()}"]
    told = subprocess.run([*compiler, "--version"], check=True, capture_output=True, text=True)
    kept, commands = [], []
    # The longest first, so that no processor waits for it at the end.
    for source in sorted(HERE.glob("*.cpp"), key=lambda path: -path.stat().st_size):
        command = [*compile_, "-c", str(source)]
        if source.name == "module.cpp":
            command.append(f'-DEXPRESS_SOURCES="{fingerprint()}"')
        name = _digest(told.stdout, *command, *(_with_headers(source)))
        kept.append(folder / f"{source.stem}-{name}.o")
        if not kept[-1].exists():
            commands.append((command, kept[-1]))
    objects = [str(path) for path in sorted(kept)]
    link = [*compiler, *_LINK, *own, *objects]
    linked = folder / f"{_digest(*link)}.so"
    if commands:
        _probe(compile_)
        print(f"compiling the express lane ({len(commands)} files) ...", file=sys.stderr)
        began = time.monotonic()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            said = list(pool.map(lambda order: _run(*order), commands))
        print(f"compiled in {time.monotonic() - began:.1f} s", file=sys.stderr)
        if any(said):
            raise CompileFailed("".join(said))
    if not linked.exists() and (said_by_linker := _run([*link, *_LIBRARIES], linked)):
        raise CompileFailed(said_by_linker)
    for path in folder.iterdir():
        if path not in (linked, *kept):
            path.unlink()
    return linked


def _probe(compile_: list[str]) -> None:
    """Tell a compiler that cannot do it from sources that are wrong."""
    command = [*compile_, "-fsyntax-only", "-x", "c++", "-"]
    tried = subprocess.run(command, input=_PROBE, capture_output=True, text=True)
    if tried.returncode:
        why = next((line for line in tried.stderr.splitlines() if "error" in line), "it fails")
        raise Unbuildable(f"{compile_[0]} does not compile C++17 with Python's headers ({why})")


def _run(command: list[str], target: Path) -> str:
    """Run a command that makes `target`; warnings are shown. Returns what it said if it failed."""
    part = target.with_suffix(".part")
    done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
    if done.returncode:
        return done.stderr or f"{shlex.join(command)} ended with {done.returncode}\n"
    sys.stderr.write(done.stderr)
    part.replace(target)
    return ""


def _with_headers(source: Path) -> list[str]:
    """Return the text of a source and of every header of ours that it includes."""
    texts: dict[str, str] = {}
    waiting = [source.name]
    while waiting:
        name = waiting.pop()
        if name not in texts:
            texts[name] = (HERE / name).read_text()
            waiting += re.findall(r'^\s*#\s*include\s+"([^"]+)"', texts[name], re.MULTILINE)
    return [part for item in texts.items() for part in item]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def wanted() -> str:
    """Return what `TOKENMART_EXPRESS_BUILD` says: `auto`, `required` or `off`."""
    said = os.environ.get("TOKENMART_EXPRESS_BUILD") or "auto"
    if said not in ("auto", "required", "off"):
        raise SystemExit(f"TOKENMART_EXPRESS_BUILD is auto, required or off, not {said!r}.")
    return said


def for_wheel() -> Path | None:
    """Build as `TOKENMART_EXPRESS_BUILD` says; None, after a line on stderr, where that cannot be."""
    try:
        return build() if wanted() != "off" else None
    except Unbuildable as missing:
        _tell(missing)
        return None


def in_place(variant: str = "release", folder: Path = HERE) -> None:
    """Build as `TOKENMART_EXPRESS_BUILD` says, and put it where Python finds it.

    Where that cannot be, an extension of these sources stays, and one of others is removed.
    """
    missing = None
    if wanted() != "off":
        try:
            place(build(variant), folder)
            return
        except Unbuildable as error:
            missing = error
    target = folder / target_name()
    if target.exists() and fingerprint().encode() in target.read_bytes():
        return
    target.unlink(missing_ok=True)
    if missing is not None:
        _tell(missing)


def _tell(missing: Unbuildable) -> None:
    """Say that there will be none; raises where there has to be one."""
    if wanted() == "required":
        raise missing
    print(
        f"The gateway will run in plain Python, because {missing}. Results are the same; a call takes "
        f"four times as much processor time. {_INSTALL}",
        file=sys.stderr,
    )


def main() -> int:
    """Build and put it where Python finds it."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m marketplace.gateway.express.build")
    for variant in ("debug", "sanitized", "threads"):
        parser.add_argument(
            f"--{variant}",
            dest="variant",
            action="store_const",
            const=variant,
            default="release",
            help=VARIANTS[variant],
        )
    parser.add_argument("--into", type=Path, default=HERE, help="another folder than this one")
    parser.add_argument("--ahead", action="store_true", help="compile only; put it nowhere yet")
    options = parser.parse_args()
    try:
        if options.ahead and wanted() != "off":
            build(options.variant)
        elif not options.ahead:
            in_place(options.variant, options.into)
    except (Unbuildable, CompileFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
