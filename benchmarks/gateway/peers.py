"""The upstream alone, and every gateway that is not ours but LiteLLM, which has a file of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.gateway import install
from benchmarks.gateway.processes import free_port, started
from benchmarks.gateway.targets import KEY, PATH, Place, Target, answering, empty_folder, written


@contextmanager
def direct(place: Place) -> Iterator[Target]:
    """The upstream with nothing in front of it."""
    yield Target(
        "direct", place.upstream + PATH, 0, "", "no gateway: what load and upstream manage"
    )


@contextmanager
def nginx(place: Place) -> Iterator[Target]:
    """One nginx worker that proxies."""
    program = install.nginx_ready()
    folder, port = empty_folder(place, "nginx"), free_port()
    temporary = "\n  ".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; {temporary}
  keepalive_requests 1000000000; client_body_buffer_size 1m;
  upstream up {{ server {urlsplit(place.upstream).netloc}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}"""
    )
    says = subprocess.run([program, "-v"], capture_output=True, text=True).stderr
    command: list[str | Path] = [program, "-c", folder / "nginx.conf", "-e", "stderr"]
    with started(command, folder) as process:
        url = f"http://127.0.0.1:{port}{PATH}"
        yield answering(
            Target("nginx", url, process.pid, says.strip().rpartition("/")[2], "proxies, no more"),
            folder,
            process,
        )


@contextmanager
def passthrough(place: Place) -> Iterator[Target]:
    """The bare Go pass-through of this folder."""
    program = install.passthrough_ready(place.offline)
    folder, port = empty_folder(place, "passthrough"), free_port()
    command: list[str | Path] = [
        program,
        "-listen",
        f"127.0.0.1:{port}",
        "-upstream",
        place.upstream,
        "-key",
        KEY,
    ]
    go = subprocess.run([program.parent / "bin/go", "version"], capture_output=True, text=True)
    with started(command, folder) as process:
        does = "checks the key, reads model and usage; no accounts"
        url = f"http://127.0.0.1:{port}{PATH}"
        target = Target("passthrough", url, process.pid, go.stdout.split()[2], does)
        yield answering(target, folder, process)


@contextmanager
def tensorzero(place: Place) -> Iterator[Target]:
    """TensorZero's gateway out of its Python wheel."""
    programs = install.python_ready("tensorzero", place.offline)
    folder = empty_folder(place, "tensorzero")
    (folder / "tensorzero.toml").write_text(
        f"""[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true
[models.mock]
routing = ["mock"]
[models.mock.providers.mock]
type = "openai"
model_name = "mock"
api_base = "{place.upstream}/v1/"
api_key_location = "none"
"""
    )
    code = """
import threading, tensorzero.tensorzero as t
gateway = t._start_http_gateway(config_file="tensorzero.toml", clickhouse_url=None, postgres_url=None,
                                valkey_url=None, async_setup=False)
open("url", "w").write(gateway.base_url)
threading.Event().wait()
"""
    with started([programs / "python", "-c", code], folder) as process:
        base = written(folder / "url", folder, process)
        target = Target(
            "tensorzero",
            f"{base}/chat/completions",
            process.pid,
            install.version(programs, "tensorzero"),
            "routes; no keys, no budgets, no spend log: those need its databases",
            model="tensorzero::model_name::mock",
        )
        yield answering(target, folder, process)


@contextmanager
def portkey(place: Place) -> Iterator[Target]:
    """Portkey's open-source gateway on Node."""
    script = install.portkey_ready(place.offline)
    node = install.node_ready(place.offline) / "bin/node"
    folder, port = empty_folder(place, "portkey"), free_port()
    command: list[str | Path] = [node, script, f"--port={port}", "--headless"]
    package = json.loads((script.parents[1] / "package.json").read_text())
    says = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    with started(command, folder, {"NODE_ENV": "production"}) as process:
        target = Target(
            "portkey",
            f"http://127.0.0.1:{port}{PATH}",
            process.pid,
            f"{package['version']} (Node {says}, streaming patched)",
            "routes; the open-source gateway has no keys, budgets or spend log",
            headers=("x-portkey-provider: openai", f"x-portkey-custom-host: {place.upstream}/v1"),
        )
        yield answering(target, folder, process)
