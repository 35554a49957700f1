"""The `tokenmart` command: data on standard output, talk on standard error, exit codes that mean something.

Exit codes: 0 done, 1 refused or found wrong, 2 called wrongly. Heavy imports stand inside the command
that needs them, so that `tokenmart --help` is quick.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; our own errors and wrong settings are a sentence, not a traceback."""
    from catalog.ground.errors import TokenMartError
    from marketplace.cli.root import app

    try:
        app()
    except TokenMartError as error:
        print(f"tokenmart: {error}", file=sys.stderr)
        sys.exit(1)
    except ValueError as error:
        from pydantic import ValidationError

        if not isinstance(error, ValidationError) or error.title != "Settings":
            raise
        for wrong in error.errors():
            name = "".join(f"TOKENMART_{part}: ".upper() for part in wrong["loc"])
            said = wrong["msg"].removeprefix("Value error, ")
            print(f"tokenmart: {name}{said}", file=sys.stderr)
        sys.exit(2)
