"""How fast do files go in and out of the hub (`make bench-hub`)?

    python -m benchmarks.hub [--mib 512] [--rounds 5] [--clients]

One run, interleaved: every round does, with the same file on the same disk, a copy (`cp`) plus Python's
hashlib sha256, an upload into the hub (one LFS PUT, sha256 checked, fsync, registered), a download from the
hub and one from nginx (sendfile), all by curl over loopback. Ratios are of throughput in the same round:

    upload_vs_cp_sha256   upload / (cp + sha256), at least 0.5
    download_vs_nginx     hub / nginx, at least 0.7

CPU is the serving process's own. `--clients` adds, once, whole `hf upload` runs by LFS and by Xet, which
contain the client's own hashing and chunking. Prints a table; writes `build/bench/hub.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from catalog.artifacts.local import LocalStore

ROOT = Path(__file__).parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
KEY = "hf_bench"
MIGRATE = """
import sys
from catalog.ground.database import Database
from marketplace.migrations.migrate import migrate
migrate(Database(sys.argv[1]))
"""
FLOORS = {"upload_vs_cp_sha256": 0.5, "download_vs_nginx": 0.7}


@dataclass(frozen=True)
class Sample:
    """One transfer: wall seconds and CPU seconds of whoever served or copied."""

    wall_s: float
    cpu_s: float


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """Return the processor seconds that a process and its children at work have taken."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


class Hub:
    """A hub process on a free port."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        # The schema belongs to the marketplace, which a benchmark must not import.
        url = f"sqlite:///{folder / 'hub.db'}"
        subprocess.run([sys.executable, "-c", MIGRATE, url], cwd=ROOT, check=True)
        keys = {KEY: {"name": "b", "orgs": {"acme": "owner"}}}
        (folder / "keys.json").write_text(json.dumps(keys))
        command = [sys.executable, "-m", "catalog.hub.app", "--data", str(folder), "--port", "0"]
        command += ["--keys", str(folder / "keys.json")]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line.startswith("ready"):
            raise SystemExit("the hub did not start")
        self.url = f"http://127.0.0.1:{line.split()[1]}"
        self.post("/api/repos/create", {"name": "acme/bench"})

    def post(self, path: str, document: Any) -> Any:
        """Send JSON and return the answer."""
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(f"{path} answered {answer.status}: {answer.read().decode()}")
            return json.load(answer)
        finally:
            connection.close()

    def upload_link(self, digest: str, size_bytes: int) -> str:
        """Return a link that takes these bytes, any number of times."""
        asked = {"operation": "upload", "transfers": ["basic"]}
        objects = {"objects": [{"oid": digest, "size": size_bytes}]}
        answer = self.post("/acme/bench.git/info/lfs/objects/batch", asked | objects)
        return str(answer["objects"][0]["actions"]["upload"]["href"])

    def commit(self, digest: str, size_bytes: int) -> str:
        """Commit uploaded bytes and return where they are downloaded."""
        value = {"path": "w.bin", "algo": "sha256", "oid": digest, "size": size_bytes}
        lines = [{"key": "header", "value": {"summary": "b"}}, {"key": "lfsFile", "value": value}]
        body = "\n".join(json.dumps(line) for line in lines).encode()
        self.post("/api/models/acme/bench/commit/main", body)
        return f"{self.url}/acme/bench/resolve/main/w.bin"

    def forget(self, digest: str) -> None:
        """Remove a body behind the hub's back."""
        LocalStore(self.folder / "artifacts").delete(digest)

    def rss_mib(self) -> float:
        """Return the highest resident memory so far, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(20)
        if self.process.stdout:
            self.process.stdout.close()


@contextmanager
def nginx(folder: Path, file: Path) -> Iterator[tuple[str, int]]:
    """Serve `file` with sendfile; yield its URL and the process id."""
    program = shutil.which("nginx")
    if program is None:
        raise SystemExit("nginx is needed for the comparison: apt-get install nginx-light")
    folder.mkdir()
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
user root;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {file.parent}; }}
}}"""
    )
    process = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-e", "stderr"])
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}/{file.name}", process.pid
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit("nginx did not start")


def _curl(*options: str) -> None:
    subprocess.run(["curl", "-sSf", *options], check=True, stdout=subprocess.DEVNULL)


def _serving(pid: int, transfer: Callable[[], None]) -> Sample:
    before, began = cpu_s(pid), time.perf_counter()
    transfer()
    wall = time.perf_counter() - began
    return Sample(wall, cpu_s(pid) - before)


def copy_and_hash(file: Path, target: Path) -> Sample:
    """Copy with `cp`, hash with hashlib: what storing a checked file costs without a network."""
    used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(["cp", str(file), str(target)], check=True)
    with file.open("rb") as stream:
        hashlib.file_digest(stream, "sha256").hexdigest()
    wall = time.perf_counter() - began
    now = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(
        b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(used, now, strict=True)
    )
    target.unlink()
    return Sample(wall, cpu)


def measure(folder: Path, mib: int, rounds: int, with_clients: bool) -> dict[str, Any]:
    """Run all rounds and return the report."""
    file = folder / "www" / "w.bin"
    file.parent.mkdir()
    folder.chmod(0o755)
    file.write_bytes(os.urandom(mib << 20))
    size = file.stat().st_size
    samples: dict[str, list[Sample]] = {
        name: [] for name in ("cp_sha256", "upload", "hub", "nginx")
    }
    with ExitStack() as stack:
        hub = Hub(folder / "hub")
        stack.callback(hub.close)
        plain, nginx_pid = stack.enter_context(nginx(folder / "nginx", file))
        served = send(hub, file, 0)
        sink = ["-o", "/dev/null"]
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            digest = renew(file, number + 1)
            link = hub.upload_link(digest, size)
            samples["cp_sha256"].append(copy_and_hash(file, folder / "copy.bin"))
            put = partial(_curl, "-T", str(file), link)
            samples["upload"].append(_serving(hub.process.pid, put))
            # As the copy's: on a virtual machine memory that was never touched before costs several
            # times as much as memory that a file has just given back.
            hub.forget(digest)
            samples["hub"].append(_serving(hub.process.pid, lambda: _curl(*sink, served)))
            samples["nginx"].append(_serving(nginx_pid, lambda: _curl(*sink, plain)))
        clients = whole_clients(hub, file) if with_clients else {}
        memory = hub.rss_mib()
    shown = rows(samples | clients, size)
    return {
        "environment": environment(mib, rounds) | {"hub_rss_mib_max": round(memory, 1)},
        "rows": shown,
        "ratios": {
            "upload_vs_cp_sha256": spread(samples["cp_sha256"], samples["upload"]),
            "download_vs_nginx": spread(samples["nginx"], samples["hub"]),
        },
    }


def renew(file: Path, number: int) -> str:
    """Make the file's content new, as an upload's is, and return its sha256."""
    with file.open("r+b") as stream:
        stream.write(number.to_bytes(8, "little"))
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def send(hub: Hub, file: Path, number: int) -> str:
    """Upload and commit the file; return where it is downloaded."""
    digest, size = renew(file, number), file.stat().st_size
    _curl("-T", str(file), hub.upload_link(digest, size))
    return hub.commit(digest, size)


def whole_clients(hub: Hub, file: Path) -> dict[str, list[Sample]]:
    """Run `hf upload` once by each way; the CPU is the hub's."""
    found = {}
    for name, more in {"hf_lfs": {"HF_HUB_DISABLE_XET": "1"}, "hf_xet": {}}.items():
        with tempfile.TemporaryDirectory() as home:
            # A few bytes of its own make it new content, in a repository of its own.
            with file.open("ab") as stream:
                stream.write(name.encode())
            environment = os.environ | {
                "HF_ENDPOINT": hub.url,
                "HF_TOKEN": KEY,
                "HF_HOME": home,
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                **more,
            }
            command = [str(Path(sys.executable).with_name("hf")), "upload"]
            command += [f"acme/{name.replace('_', '-')}", str(file), "w.bin"]

            def run(command: list[str] = command, env: dict[str, str] = environment) -> None:
                subprocess.run(command, check=True, env=env, capture_output=True)

            found[name] = [_serving(hub.process.pid, run)]
    return found


def rows(samples: dict[str, list[Sample]], size_bytes: int) -> list[dict[str, Any]]:
    """Return throughput and CPU per GB of each."""
    gb = size_bytes / 1e9
    return [
        {
            "what": name,
            "gb_per_s": round(statistics.median(gb / one.wall_s for one in found), 3),
            "cpu_s_per_gb": round(statistics.median(one.cpu_s / gb for one in found), 3),
            "n": len(found),
        }
        for name, found in samples.items()
    ]


def spread(yardstick: list[Sample], ours: list[Sample]) -> dict[str, float]:
    """Return the ratio of throughputs, round by round."""
    found = [a.wall_s / b.wall_s for a, b in zip(yardstick, ours, strict=True)]
    return {
        "median": round(statistics.median(found), 3),
        "low": round(min(found), 3),
        "high": round(max(found), 3),
        "n": len(found),
    }


def environment(mib: int, rounds: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    nginx_says = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "uvicorn": version("uvicorn"),
        "huggingface_hub": version("huggingface_hub"),
        "nginx": nginx_says.rpartition("/")[2],
        "file_mib": mib,
        "rounds": rounds,
    }


def show(report: dict[str, Any]) -> None:
    """Print the table of rows and ratios."""
    table = Table("what", "GB/s", "CPU-s per GB", "n", box=None)
    for row in report["rows"]:
        table.add_row(*(str(row[key]) for key in ("what", "gb_per_s", "cpu_s_per_gb", "n")))
    console = Console()
    console.print(table)
    for name, found in report["ratios"].items():
        floor = FLOORS[name]
        console.print(
            f"{name} {found['median']} ({found['low']}-{found['high']}, n={found['n']}), at least {floor}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description="How fast files go in and out of the hub.")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", action="store_true", help="also whole `hf upload` runs")
    options = parser.parse_args(arguments)
    place = ROOT / "build" / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-hub-", dir=place) as folder:
        report = measure(Path(folder), options.mib, options.rounds, options.clients)
    (place / "hub.json").write_text(json.dumps(report, indent=2) + "\n")
    show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
