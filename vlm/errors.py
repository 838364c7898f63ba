"""Errors that a user can cause, and how a command reports them."""

import atexit
import errno
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vlm.run.launchers import watch_launchers
from vlm.run.signals import Stopped, last_words, outlive_readers, stoppable

# What the machine refuses; a file that is missing is not here, since that may be a mistake of ours.
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE,
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
# torch.save reports a full disk by a RuntimeError of its C++ writer, whose message holds one of these.
_TORCH_WRITER = ("StreamWriter", "inline_container", "unexpected pos")

# What torch.distributed's backends say if another process has ended.
_GONE = ("closed by peer", "reset by peer", "Broken pipe", "failed to recv, got 0 bytes", "remote process exited")
LAST_WORDS = 3.0  # seconds; launchers look after their processes once a second


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what was given, what is needed and what to do."""


@contextmanager
def writing(path: str | Path, advice: str = "make room or give another folder") -> Iterator[None]:
    """Turn a failure to write `path` into a `UserError` that names it and ends with `advice`.

    Libraries have their own exceptions for a full disk: torch.save raises RuntimeError, safetensors SafetensorError.
    Other errors pass through as they are.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(name in str(error) for name in _TORCH_WRITER):
            raise  # such as a CUDA error, which says nothing about the disk
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise UserError(f"cannot write {path} ({reason}; {_free(Path(path))}): {advice}") from error


def _free(path: Path) -> str:
    """The room on the disk of `path`, which need not exist yet."""
    for folder in (path, *path.parents):
        try:
            return f"{shutil.disk_usage(folder).free:,} bytes free"
        except OSError:
            continue
    return "its free space is unknown"


def user_message(error: UserError | OSError) -> str | None:
    """What to tell the user; None if it is not theirs to mend: an OSError other than a file that the system refuses."""
    if isinstance(error, UserError):
        return str(error)
    refused = error.filename is not None and error.errno in _REFUSED
    return f"{error.filename}: {error.strerror}" if refused else None


def _reader_has_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        waiting = select.poll()
        waiting.register(sys.stdout.fileno(), 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in waiting.poll(0))
    except (OSError, ValueError):  # no file behind stdout
        return False


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`, and report what the user can mend in one line on stderr, with exit code 2.

    That is a `UserError`, or a file that the system refuses to read or write. LEVLM_DEBUG=1 keeps the traceback. What
    is told to stop, by a signal or by the death of its launcher, says so in one line and exits with 130, 143 or 129. If
    the reader of a pipe has gone, as in `command | head`, the exit code is 141, as a shell has it.
    """
    outlive_readers()
    watch_launchers()
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return _reported(main)
    # torch's threads of a process group may outlive the interpreter, which then aborts what had ended well (exit code
    # -6, "terminate called without an active exception"). So one of several processes ends without taking it down.
    code: str | int | None = 0
    try:
        _reported(main)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = 1
        if _peer_is_gone(error):
            # The launcher ends all with the code of whoever ended first, which has said why: leave the floor to it.
            time.sleep(LAST_WORDS)
            print("error: another process of this run has ended, see its message", file=sys.stderr)
        else:
            sys.excepthook(type(error), error, error.__traceback__)
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()  # ends the workers of data loaders
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if isinstance(code, str) else code or 0)


def _peer_is_gone(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that another process has ended."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _GONE)


def _reported(main: Callable[[], None]) -> None:
    try:
        with stoppable():
            main()
        sys.stdout.flush()  # what a pipe refuses is then met here, not while the interpreter ends
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # another pipe, such as one to a worker process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        sys.exit(141)
    except (UserError, OSError) as error:
        text = user_message(error)
        if text is None or os.environ.get("LEVLM_DEBUG") == "1":
            raise
        print("error: " + " ".join(text.split()), file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Stopped) as stop:
        sys.exit(last_words(stop))
