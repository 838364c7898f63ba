"""Errors that a user can cause, and how a command reports them."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What the machine refuses; a file that is missing is not here, since that may be a mistake of ours.
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE,
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE,
}  # fmt: skip


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what was given, what is needed and what to do."""


@contextmanager
def writing(path: str | Path, *kinds: type[Exception]) -> Iterator[None]:
    """`UserError` naming `path` where it cannot be written, which the system's own error for a full disk does not.

    kinds: what a library raises in place of OSError.
    """
    try:
        yield
    except (OSError, *kinds) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path} ({reason}): make room or give another folder") from error


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; a `UserError` becomes one line on stderr and exit code 2, and so does a file that the
    system refuses to read or write.

    LEVLM_DEBUG=1 keeps the traceback.
    """
    try:
        main()
    except (UserError, OSError) as error:
        refused = isinstance(error, UserError) or (error.filename is not None and error.errno in _REFUSED)
        if not refused or os.environ.get("LEVLM_DEBUG") == "1":
            raise
        text = str(error) if isinstance(error, UserError) else f"{error.filename}: {error.strerror}"
        print("error: " + " ".join(text.split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
