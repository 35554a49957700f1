"""`tokenmart model`: repositories, through the client library that everybody has already.

The server is `HF_ENDPOINT` and the key `HF_TOKEN` (or what `hf auth login` kept), as for `hf` itself. The
library's progress bars go to standard error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketplace.cli.output import Format, FormatOption, say, show

if TYPE_CHECKING:
    from huggingface_hub import HfApi

model_app = typer.Typer(help="Models: repositories on the hub.", no_args_is_help=True)

Repo = Annotated[str, typer.Argument(help="org/name")]
Revision = Annotated[str, typer.Option(help="branch, tag or commit")]


def endpoint() -> str:
    """Return the hub's address; `BadRequest` when none is set, rather than some public hub."""
    from catalog.ground.errors import BadRequest

    address = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if not address:
        raise BadRequest(
            "HF_ENDPOINT is not set.",
            rule="cli.endpoint",
            remedy="Set it to this marketplace's address: export HF_ENDPOINT=http://127.0.0.1:8000",
        )
    return address


@contextmanager
def connected() -> Iterator[HfApi]:
    """Yield the client; what the server refuses becomes one sentence."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from catalog.ground.errors import BadRequest, TokenMartError

    try:
        yield HfApi(endpoint=endpoint(), library_name="tokenmart")
    except TokenMartError:
        raise
    except HfHubHTTPError as error:
        words = (
            error.response.headers.get("x-error-message") if error.response is not None else None
        )
        raise BadRequest(words or str(error)) from error
    except (OSError, ValueError) as error:
        raise BadRequest(str(error)) from error


def _row(info: Any) -> dict[str, object]:
    return {
        "model": info.id,
        "private": info.private,
        "downloads": info.downloads,
        "licence": next((tag[8:] for tag in info.tags or [] if tag.startswith("license:")), ""),
        "changed": info.last_modified.isoformat() if info.last_modified else "",
    }


@model_app.command("create")
def create(
    repo: Repo,
    public: Annotated[bool, typer.Option(help="everybody may see the name and the card")] = False,
    exist_ok: Annotated[bool, typer.Option(help="succeed when it exists")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Create a model repository; private unless told otherwise."""
    with connected() as api:
        url = api.create_repo(repo, private=not public, exist_ok=exist_ok)
    show([{"model": url.repo_id, "url": str(url)}], form)


@model_app.command("list")
def list_(
    org: Annotated[str | None, typer.Option(help="only this organisation's")] = None,
    search: Annotated[str | None, typer.Option(help="a part of the name")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    form: FormatOption = Format.TABLE,
) -> None:
    """List the models that you may see, the newest first."""
    with connected() as api:
        found = list(api.list_models(author=org, search=search, limit=limit, full=False))
    show([_row(info) for info in found], form)


@model_app.command("info")
def info(repo: Repo, revision: Revision = "main", form: FormatOption = Format.TABLE) -> None:
    """Show a model: its commit, size, parameters, and what the card says."""
    with connected() as api:
        found = api.model_info(repo, revision=revision)
    weights = found.safetensors
    row = _row(found) | {
        "commit": found.sha,
        "files": len(found.siblings or []),
        "size_bytes": found.used_storage,
        "parameters": weights.total if weights is not None else None,
        "gated": found.gated,
        "tags": ", ".join(found.tags or []),
    }
    show([row], form)


@model_app.command("upload")
def upload(
    repo: Repo,
    path: Annotated[Path, typer.Argument(help="file or folder", exists=True)],
    to: Annotated[str, typer.Option(help="where in the repository")] = "",
    revision: Revision = "main",
    message: Annotated[str | None, typer.Option(help="the commit's title")] = None,
    propose: Annotated[bool, typer.Option(help="open a pull request instead")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Upload a file or a folder; what the hub has already is not sent again."""
    with connected() as api:
        api.create_repo(repo, private=True, exist_ok=True)
        options = {"revision": revision, "commit_message": message, "create_pr": propose}
        if path.is_dir():
            made = api.upload_folder(
                repo_id=repo, folder_path=path, path_in_repo=to or None, **options
            )
        else:
            made = api.upload_file(
                repo_id=repo, path_or_fileobj=path, path_in_repo=to or path.name, **options
            )
    show([{"model": repo, "commit": made.oid, "pull_request": made.pr_url}], form)


@model_app.command("download")
def download(
    repo: Repo,
    folder: Annotated[Path | None, typer.Option("--to", help="default: the client's cache")] = None,
    revision: Revision = "main",
    include: Annotated[list[str] | None, typer.Option(help="only such files (repeat)")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Download a revision; files that are here already are not fetched again."""
    with connected() as api:
        place = api.snapshot_download(
            repo, revision=revision, local_dir=folder, allow_patterns=include or None
        )
    show([{"model": repo, "revision": revision, "folder": place}], form)


@model_app.command("mirror")
def mirror(
    repo: Annotated[str, typer.Argument(help="org/name on the source hub")],
    source: Annotated[str, typer.Option(help="the source hub's address")],
    to: Annotated[str | None, typer.Option(help="org/name here (default: the same)")] = None,
    revision: Revision = "main",
    include: Annotated[list[str] | None, typer.Option(help="only such files (repeat)")] = None,
    work: Annotated[
        Path | None, typer.Option(help="where downloads are kept to go on from")
    ] = None,
    public: Annotated[bool, typer.Option(help="everybody may see the name and the card")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Bring a model from another hub, every hash compared. A key for the source: HF_SOURCE_TOKEN."""
    import tempfile

    from catalog.hub.mirror import as_row, mirror_repo

    with connected() as api:
        place = work or Path(tempfile.gettempdir()) / "tokenmart-mirror" / repo.replace("/", "--")
        place.mkdir(parents=True, exist_ok=True)
        mirrored = mirror_repo(
            source.rstrip("/"),
            repo,
            revision,
            endpoint(),
            to or repo,
            place,
            source_key=os.environ.get("HF_SOURCE_TOKEN"),
            destination_key=api.token,
            patterns=include,
            private=not public,
            say=say,
        )
    show([as_row(mirrored)], form)
