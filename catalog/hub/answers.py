"""The one place where an error becomes an answer of the hub.

The clients decide by `X-Error-Code` which exception to raise and by `X-Repo-Commit` whether to remember an
absence; `X-Error-Message` is all that a HEAD can say. Header values are latin-1, so other letters are
spelled out there and stay as they are in the body.
"""

from __future__ import annotations

import json

from starlette.responses import Response

from catalog.ground.errors import TokenMartError
from catalog.ground.rendering import problem_object, render_problem

REPO_COMMIT = "repo_commit"
"""The key in an error's `details` under which an absence says at which commit it was looked for."""

_CODES = {
    "repo_not_found": "RepoNotFound",
    "repo_type_unsupported": "RepoNotFound",
    "revision_not_found": "RevisionNotFound",
    "entry_not_found": "EntryNotFound",
    "gated_repo": "GatedRepo",
}


_HEADER_MAX = 1_000  # clients refuse a line of 64 KiB, and a proxy all headers beyond 4 KiB


def header_text(text: str) -> str:
    """Return a text that fits a header: latin-1, one short line, without control characters."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    plain = " ".join(plain.split())
    return plain.encode("latin-1", "backslashreplace").decode("latin-1")[:_HEADER_MAX]


def render(error: Exception) -> Response:
    """Return the answer for an error; the body is problem+json with the `error` that clients print."""
    rendered = render_problem(error)
    headers = dict(rendered.headers)
    body = json.loads(rendered.body)
    if isinstance(error, TokenMartError):
        headers["X-Error-Message"] = header_text(str(error))
        headers["X-Error-Code"] = _CODES.get(error.code, error.code)
        commit = error.details.get(REPO_COMMIT)
        if commit:
            headers["X-Repo-Commit"] = commit
        body = problem_object(error) | {"error": str(error)}
    # An error may quote half a character of what was sent, and has to be told all the same.
    text = json.dumps(body, ensure_ascii=False).encode(errors="replace")
    return Response(text, rendered.status, headers)
