"""The `tokenmart` command: data on standard output, talk on standard error, exit codes that mean something.

Exit codes: 0 done, 1 refused or found wrong, 2 called wrongly. Heavy imports stand inside the command
that needs them, so that `tokenmart --help` is quick.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; our own errors are one sentence, not a traceback."""
    from catalog.ground.errors import TokenMartError
    from marketplace.cli.root import app

    try:
        app()
    except TokenMartError as error:
        print(f"tokenmart: {error}", file=sys.stderr)
        sys.exit(1)
