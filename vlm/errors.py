"""Errors that a user can cause, and how a command reports them."""

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what was given, what is needed and what to do."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; a `UserError` becomes one line on stderr and exit code 2.

    LEVLM_DEBUG=1 keeps the traceback.
    """
    try:
        main()
    except UserError as error:
        if os.environ.get("LEVLM_DEBUG") == "1":
            raise
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
