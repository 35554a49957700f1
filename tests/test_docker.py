"""The container files name what exists (they are linted here, not run)."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()


def test_every_copied_path_exists() -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source


def test_it_does_not_run_as_root_and_carries_no_secret() -> None:
    assert re.search(r"^USER tokenmart$", DOCKERFILE, re.MULTILINE)
    assert not re.search(r"(?i)(password|secret|token)=\S", DOCKERFILE)


def test_compose_has_no_default_password_and_publishes_on_loopback_only() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    assert services["database"]["environment"]["POSTGRES_PASSWORD"].startswith(
        "${POSTGRES_PASSWORD:?"
    )
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8000:8000"]
    dockerfile = ROOT / "docker" / ".." / services["tokenmart"]["build"]["dockerfile"]
    assert dockerfile.exists()


def test_the_compiled_part_is_made_where_the_compiler_stays() -> None:
    _, made, served = DOCKERFILE.split("\nFROM ")
    assert "g++" in made
    assert "TOKENMART_EXPRESS_BUILD=required" in made
    assert "apt-get" not in served
