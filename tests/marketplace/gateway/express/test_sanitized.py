"""The short form of `make prove-express-parsers`, and that it sees what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from proofs.express_parsers import prove
from support.sanitized import NoSanitizer, reports, sanitized

from marketplace.gateway.express import build

SEED = "20261122"
SECONDS = 3
_CARELESS = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
static PyObject* sum(PyObject*, PyObject* arguments) {
  const char* bytes; Py_ssize_t size; int beyond, total = 0;
  if (!PyArg_ParseTuple(arguments, "y#i", &bytes, &size, &beyond)) return nullptr;
  for (Py_ssize_t i = 0; i < size + beyond; ++i) total += bytes[i];
  return PyLong_FromLong(total);
}
static PyObject* shift(PyObject*, PyObject* by) { return PyLong_FromLong(1 << PyLong_AsLong(by)); }
static PyMethodDef methods[] = {
    {"sum", sum, METH_VARARGS, nullptr}, {"shift", shift, METH_O, nullptr}, {}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_core", nullptr, -1, methods,
                                 nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__core() { return PyModule_Create(&definition); }
"""
_USE = """
import sys
from support.sanitized import exactly
from marketplace.gateway.express import _core
print(eval(sys.argv[1], {"core": _core, "exact": exactly()}))
"""


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """An extension that reads too far when it is told to."""
    folder = tmp_path_factory.mktemp("careless")
    (folder / "module.cpp").write_text(_CARELESS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "HERE", folder)
        patch.setattr(build, "BUILT", folder / "built")
        return folder, _sanitized(folder)


def _sanitized(folder: Path) -> dict[str, str]:
    try:
        return sanitized(folder)
    except NoSanitizer as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("core.sum(exact(b'abcdefgh'), 0)", "804"),
        ("core.sum(exact(b'abcdefgh'), 1)", "AddressSanitizer"),
        ("core.sum(exact(b'abcde'), 1)", "AddressSanitizer"),
        ("core.shift(3)", "8"),
        ("core.shift(32)", "runtime error: shift exponent 32"),
    ],
)
def test_one_byte_too_far_is_seen(
    careless: tuple[Path, dict[str, str]], expression: str, answer: str
) -> None:
    folder, needed = careless
    here = [str(Path(__file__).parents[n]) for n in (3, 4)]
    path = os.pathsep.join([*here, needed["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", _USE, expression],
        env=os.environ | needed | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert answer in done.stdout + done.stderr + reports(folder)
    assert (done.returncode == 0) is answer.isdigit()


def test_nothing_is_different_and_nothing_is_read_too_far(
    capfd: pytest.CaptureFixture[str],
) -> None:
    if build.wanted() == "off":
        pytest.skip("TOKENMART_EXPRESS_BUILD=off")
    try:
        status = prove(SECONDS, SEED, 1)
    except NoSanitizer as missing:
        pytest.skip(str(missing))
    assert status == 0, capfd.readouterr().out
