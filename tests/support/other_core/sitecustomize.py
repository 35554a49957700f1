"""Python imports this when it starts: the gateway's compiled part is the file that OTHER_CORE says."""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

_NAME = "marketplace.gateway.express._core"


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != _NAME:
            return None
        return importlib.util.spec_from_file_location(name, os.environ["OTHER_CORE"])


if "OTHER_CORE" in os.environ:
    sys.meta_path.insert(0, _Finder())
