"""The compiled part is there, is compiled only when it has changed, and goes into wheels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from marketplace.gateway.express import build

ROOT = Path(__file__).parents[4]
_MODULE = """
#include <Python.h>
#include "number.hpp"
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_core", nullptr, -1, nullptr,
                                 nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__core() {
  PyObject* module = PyModule_Create(&definition);
  PyModule_AddIntConstant(module, "number", number());
  PyModule_AddStringConstant(module, "sources", EXPRESS_SOURCES);
  return module;
}
"""
_NUMBER = '#include "number.hpp"\nint number() { return 17; }\n'


def _buildable() -> None:
    try:
        build._compiler()
    except build.Unbuildable as missing:
        pytest.skip(str(missing))
    if build.wanted() == "off":
        pytest.skip("TOKENMART_EXPRESS_BUILD=off")


def test_where_there_is_a_compiler_nothing_is_tested_without_the_compiled_part() -> None:
    """Other tests skip without it; this one fails, so that they cannot all skip unseen."""
    _buildable()
    from marketplace.gateway.express import _core

    way_out = "it is of other sources: run python -m marketplace.gateway.express.build"
    assert not build.is_stale(_core), way_out


class Tree:
    """A checkout with a compiled part that takes no time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.here = root / "marketplace/gateway/express"
        self.here.mkdir(parents=True)
        for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, root)
        shutil.copy(build.HERE / "build.py", self.here)
        for package in self.here, *list(self.here.parents)[:2]:
            (package / "__init__.py").touch()
        self.write("module.cpp", _MODULE)
        self.write("number.hpp", "int number();\n")
        self.write("number.cpp", _NUMBER)

    def write(self, name: str, text: str) -> None:
        (self.here / name).write_text(text)

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("CXXFLAGS", "TOKENMART_EXPRESS_BUILD")
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=kept | environment,
            capture_output=True,
            text=True,
        )

    def build(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "marketplace.gateway.express.build", **environment)

    def says(self, what: str) -> str:
        code = f"from marketplace.gateway.express import _core; print(_core.{what})"
        return self.python("-c", code).stdout.strip()

    def wheel(self, kind: str = "wheel", **environment: str) -> tuple[str, list[str]]:
        """Build one; return its name and what it has of the express lane."""
        code = f"import hatchling.build as b; print(b.build_{kind}('dist'))"
        done = self.python("-c", code, **environment)
        assert done.returncode == 0, done.stderr
        name = done.stdout.split()[-1]
        with zipfile.ZipFile(self.root / "dist" / name) as archive:
            names = [Path(path).name for path in archive.namelist() if "express" in path]
        return name, sorted(names)

    @property
    def extension(self) -> Path:
        return self.here / build.target_name()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    _buildable()
    return Tree(tmp_path)


def test_only_what_has_changed_is_compiled_again(tree: Tree) -> None:
    assert "(2 files)" in tree.build().stderr
    assert tree.says("number") == "17"
    before = tree.extension.stat().st_ino
    assert tree.build().stderr == ""
    (tree.here / "number.cpp").touch()
    assert tree.build().stderr == ""
    assert tree.extension.stat().st_ino == before

    tree.write("number.cpp", _NUMBER.replace("17", "18"))
    # That file, and the module, which knows what it was compiled from.
    assert "(2 files)" in tree.build().stderr
    assert tree.says("number") == "18"
    assert tree.extension.stat().st_ino != before
    tree.write("other.hpp", "")
    assert "(1 files)" in tree.build().stderr
    tree.write("number.hpp", "int number();  // a number\n")
    assert "(2 files)" in tree.build(CXXFLAGS="-Werror").stderr


def test_what_lies_there_of_other_sources_is_known_and_removed(tree: Tree) -> None:
    tree.build()
    fingerprint = tree.says("sources")
    tree.write("number.cpp", _NUMBER.replace("17", "18"))
    assert tree.says("sources") == fingerprint
    told = tree.build(CXX="no-such-compiler")
    assert told.returncode == 0
    assert len(told.stderr.splitlines()) == 1
    assert "there is no C++ compiler (no-such-compiler)" in told.stderr
    assert "apt-get install g++ python3-dev" in told.stderr
    assert not tree.extension.exists()


def test_without_a_compiler_an_extension_of_these_sources_stays(tree: Tree) -> None:
    tree.build()
    again = tree.build(CXX="no-such-compiler")
    assert (again.returncode, again.stderr) == (0, "")
    assert tree.says("number") == "17"


def test_a_failed_compilation_is_an_error_that_names_the_way_out(tree: Tree) -> None:
    tree.write("number.cpp", "int number() { return nothing; }\n")
    failed = tree.build()
    assert failed.returncode == 1
    assert "‘nothing’" in failed.stderr or "'nothing'" in failed.stderr
    assert "TOKENMART_EXPRESS_BUILD=off" in failed.stderr
    off = tree.build(TOKENMART_EXPRESS_BUILD="off")
    assert (off.returncode, off.stderr) == (0, "")


def test_warnings_are_errors_where_that_is_asked_for(tree: Tree) -> None:
    tree.write("number.cpp", "int number() { int idle; return 17; }\n")
    warned = tree.build()
    assert warned.returncode == 0
    assert "idle" in warned.stderr
    assert tree.build(CXXFLAGS="-Werror").returncode == 1


def test_a_compiler_of_another_age_is_none(tree: Tree) -> None:
    old = tree.build(CXXFLAGS="-std=c++11")
    assert old.returncode == 0
    assert "does not compile C++17" in old.stderr
    assert tree.build(CXXFLAGS="-std=c++11", TOKENMART_EXPRESS_BUILD="required").returncode == 1


def test_a_wheel_carries_it_and_is_for_this_platform(tree: Tree) -> None:
    name, files = tree.wheel()
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert name.endswith(f"-{python}-{python}-linux_{os.uname().machine}.whl")
    assert files == sorted(["__init__.py", "build.py", build.target_name()])
    assert not tree.extension.exists()


def test_a_wheel_made_without_a_compiler_is_pure(tree: Tree) -> None:
    tree.build()  # what lies beside the sources does not slip in
    name, files = tree.wheel(CXX="no-such-compiler")
    assert name.endswith("-py3-none-any.whl")
    assert files == ["__init__.py", "build.py"]


def test_an_editable_installation_has_it_beside_the_sources(tree: Tree) -> None:
    name, files = tree.wheel("editable")
    assert name.endswith("-py3-none-any.whl")
    assert files == []
    assert tree.says("number") == "17"
