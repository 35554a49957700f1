"""Puts the compiled part of the gateway into a wheel, or beside its sources for an editable installation.

A wheel that carries it is for one Python and one platform, and its tag says so; where nothing can be
compiled, the wheel is the pure one (marketplace/gateway/express/build.py tells when that is).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EXPRESS = "marketplace/gateway/express"


class ExpressLane(BuildHookInterface):
    """The hook of `[tool.hatch.build.targets.wheel.hooks.custom]`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are chosen."""
        builder = _builder(Path(self.root))
        if version == "editable":
            builder.in_place()
            return
        linked = builder.for_wheel()
        if linked is not None:
            build_data["force_include"][str(linked)] = f"{EXPRESS}/{builder.target_name()}"
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


def _builder(root: Path) -> ModuleType:
    """Load build.py as a file: the packages above it may need what is not installed here."""
    path = root / EXPRESS / "build.py"
    spec = importlib.util.spec_from_file_location("express_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
