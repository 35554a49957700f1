"""Run the adapter, as a module or by the path of this file.

By path is how `launch` runs it in litellm's environment: our packages then come from the folder that this
file lies in and nothing else of that folder can be imported, so that two environments never mix.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _offer(name: str) -> None:
    """Make the package `name` of our folder importable."""
    folder = ROOT / name
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)


for _name in ("catalog", "serving"):
    if _name not in sys.modules:
        _offer(_name)

from serving.litellm_adapter.command import main  # noqa: E402 - findable only now

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
