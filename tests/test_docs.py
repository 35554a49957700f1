"""Pages that are held to the code."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from itertools import pairwise
from pathlib import Path

from marketplace import settings
from marketplace.settings import Settings

ROOT = Path(__file__).parents[1]


def test_every_setting_is_on_its_page_with_its_default_and_its_words() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    source = ast.parse(inspect.getsource(settings))
    body = next(node for node in source.body if isinstance(node, ast.ClassDef)).body
    for node, following in pairwise(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        assert isinstance(following, ast.Expr), f"{node.target.id} has no docstring"
        words = ast.literal_eval(following.value)
        default = Settings.model_fields[node.target.id].default
        row = f"| `TOKENMART_{node.target.id.upper()}` | `{default}` | {words} |"
        assert row in page, f"docs/settings.md lacks the line: {row}"
    shown = set(re.findall(r"`TOKENMART_([A-Z_]+)`", page))
    assert shown == {name.upper() for name in Settings.model_fields}


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*%?):", makefile, re.MULTILINE)) - {"preflight"}
    told = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.split()[0] for line in told.stdout.splitlines()} == targets


def test_every_folder_says_what_lives_there_and_what_it_may_import() -> None:
    for folder in ("marketplace", "benchmarks", "quantize", "serving", "catalog"):
        for package in (ROOT / folder).glob("**/__init__.py"):
            if "migrations/versions" in str(package):
                continue
            words = ast.get_docstring(ast.parse(package.read_text()))
            assert words, f"{package.relative_to(ROOT)} says nothing"
        top = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())) or ""
        assert "Lives here" in top
        assert "May import" in top


def test_links_in_the_readme_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (ROOT / target).exists(), target


def test_no_address_and_no_path_of_a_machine_is_in_the_locks() -> None:
    for lock in (ROOT / "requirements").iterdir():
        assert not re.search(
            r"https?://|file:|^-|/(home|root|opt)/", lock.read_text(), re.MULTILINE
        )
