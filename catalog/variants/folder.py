"""What every reader of a model's folder needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from catalog.ground.errors import BadRequest


def read_object(path: Path, code: str) -> dict[str, Any]:
    """Return the JSON object of a file; `BadRequest` with `code` where it holds anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadRequest(f"{path.name} is not a JSON object.", code=code)
    return found
