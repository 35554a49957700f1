"""`tokenmart release`: commits kept for good, what they are, and what changed between two."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from marketplace.cli.models import Repo, Revision, connected, endpoint
from marketplace.cli.output import Format, FormatOption, show

release_app = typer.Typer(help="Releases of a model.", no_args_is_help=True)
Version = Annotated[str, typer.Argument(help="version or id of a release")]


def _ask(repo: str, *path: str, body: dict[str, Any] | None = None) -> Any:
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    with connected() as api:
        place = "/".join(quote(part, safe="") for part in ("releases", *path))
        url = f"{endpoint()}/api/models/{repo}/{place}"
        headers = build_hf_headers(token=api.token)
        method = "GET" if body is None else "POST"
        response = get_session().request(method, url, headers=headers, json=body)
        hf_raise_for_status(response)
        return response.json()


@release_app.command("cut")
def cut(
    repo: Repo,
    version: Annotated[str, typer.Option(help="its name, such as 1.0 (default: the commit)")] = "",
    revision: Revision = "main",
    form: FormatOption = Format.TABLE,
) -> None:
    """Keep a revision for good, under a version and a digest."""
    made = _ask(repo, body={"revision": revision, "version": version})
    show([{key: made[key] for key in ("id", "model", "version", "commit", "digest")}], form)


@release_app.command("list")
def list_(repo: Repo, form: FormatOption = Format.TABLE) -> None:
    """List a model's releases, the newest first."""
    show(_ask(repo), form)


@release_app.command("show")
def show_(repo: Repo, version: Version, form: FormatOption = Format.TABLE) -> None:
    """Show what a release is, as read from its files."""
    found = _ask(repo, version)
    if form == Format.JSON:
        show([found], form)
        return
    manifest = found.pop("manifest")
    variants = found.pop("variants")
    facts = found | {key: manifest[key] for key in manifest if key not in found and key != "files"}
    facts["variants"] = [variant["name"] for variant in variants]
    show([{"fact": key, "value": _text(value)} for key, value in facts.items()], form)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = {key: part for key, part in value.items() if key != "text"}
    return json.dumps(value, ensure_ascii=False)


@release_app.command("diff")
def diff(repo: Repo, old: Version, new: Version, form: FormatOption = Format.TABLE) -> None:
    """Show which files, tensors and facts changed from one release to another."""
    found = _ask(repo, old, "diff", new)
    if form == Format.JSON:
        show([found], form)
        return
    rows = []
    for part in ("files", "tensors"):
        for change in ("added", "removed", "changed"):
            rows += [{"part": part, "change": change, "what": name} for name in found[part][change]]
    for name, values in found["facts"].items():
        what = f"{name}: {_text(values['old'])} → {_text(values['new'])}"
        rows.append({"part": "facts", "change": "changed", "what": what})
    show(rows, form)
