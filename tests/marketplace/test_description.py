"""The API description is true of every route: names, parameters, errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marketplace.app import Marketplace
from marketplace.settings import Settings


@pytest.fixture
def described(tmp_path: Path) -> dict[str, Any]:
    settings = Settings(data_dir=tmp_path, database_url=f"sqlite:///{tmp_path / 'a.db'}")
    return Marketplace(settings).web.openapi()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_every_operation_has_a_name_of_its_own(described: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(described)]
    assert len(names) == len(set(names)) > 100


def test_every_part_of_a_path_is_a_parameter(described: dict[str, Any]) -> None:
    for path, operation in operations(described):
        declared = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), path


def test_every_operation_says_what_its_errors_look_like(described: dict[str, Any]) -> None:
    for path, operation in operations(described):
        shape = operation["responses"]["default"]["$ref"].rpartition("/")[2]
        assert (shape == "Problem") == (not path.startswith("/v1/")), path
        assert "HTTPValidationError" not in str(operation)
        assert shape in described["components"]["responses"]
