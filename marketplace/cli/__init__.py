"""The `tokenmart` command: data on standard output, talk on standard error, exit codes that mean something.

Exit codes: 0 done, 1 refused or found wrong, 2 called wrongly. Heavy imports stand inside the command
that needs them, so that `tokenmart --help` is quick.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError


def main() -> None:
    """Run the command line; our errors, wrong settings and a database that is away are a sentence."""
    from sqlalchemy.exc import DBAPIError

    from catalog.ground.errors import TokenMartError
    from marketplace.cli.root import app

    try:
        app()
    except TokenMartError as error:
        print(f"tokenmart: {error}", file=sys.stderr)
        sys.exit(1)
    except DBAPIError as error:
        print(f"tokenmart: {_of_database(error)}", file=sys.stderr)
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


def _of_database(error: DBAPIError) -> str:
    """Return what is wrong with the database, and what to do; raises the error when it is a fault of ours."""
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from marketplace.settings import Settings

    settings = Settings()
    words = (str(error.orig).splitlines() or [""])[0]
    where = "TOKENMART_DATABASE_URL names it"
    if not settings.database_url:
        where = f"TOKENMART_DATA_DIR is {settings.data_dir.absolute()}"
    missing = "no such table" in words or getattr(error.orig, "sqlstate", "") == "42P01"
    if missing and isinstance(error, OperationalError | ProgrammingError):
        return (
            f"The database has no tables yet ({where}). Run tokenmart init, or name the right one."
        )
    if not isinstance(error, OperationalError):
        raise error
    return f"The database cannot be used: {words}. {where}."
