"""Errors that a user can cause, and how a command reports them."""

import atexit
import errno
import io
import os
import re
import resource
import select
import shutil
import sys
import tempfile
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
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

PIXELS_VARIABLE = "LEVLM_MAX_MEGAPIXELS"  # of the environment: one limit for all formats, whatever memory it takes
# What torch.distributed's backends say if another process has ended.
_GONE = ("closed by peer", "reset by peer", "Broken pipe", "failed to recv, got 0 bytes", "remote process exited")
# What errors say if memory has run out: of a GPU (torch.OutOfMemoryError, CUDA's own, Apple's), of CUDA's libraries, of
# the machine. All are RuntimeErrors but Python's own.
_NO_MEMORY = re.compile(r"out of memory|_ALLOC_FAILED|can't allocate memory|not enough memory", re.IGNORECASE)
_COUNTS = ("RANK", "WORLD_SIZE")
_LAUNCHED = (*_COUNTS, "MASTER_ADDR", "MASTER_PORT")  # of the environment: a process's place among several
LAST_WORDS = 3.0  # seconds; launchers look after their processes once a second


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what was given, what is needed and what to do."""


def allowed_pixels() -> int | None:
    """The pixels that one picture may have by `PIXELS_VARIABLE`; None if it is not set. Raises: UserError."""
    given = os.environ.get(PIXELS_VARIABLE, "").strip()
    if not given:
        return None
    if not given.isdecimal() or len(given) > 9 or int(given) < 1:
        raise UserError(f"{PIXELS_VARIABLE}={given[:40]}: give a whole number of megapixels, 1 or more, or unset it")
    return int(given) * 1_000_000


def one_line(error: BaseException, most: int | None = 300) -> str:
    """What an error says, on one line and of at most `most` characters; the name of its class if it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


@contextmanager
def writing(
    path: str | Path,
    advice: str = "what was there before is untouched, make room or give another folder",
    needed: int | None = None,
) -> Iterator[None]:
    """Turn a failure to write `path` into a `UserError` that names it and ends with `advice`.

    Libraries have their own exceptions for a full disk: safetensors a SafetensorError, tokenizers a bare Exception.
    Other errors pass through as they are. needed: bytes of what is written, if known.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (code := _refusal(error, Path(path))) is None:
            raise
        reason = os.strerror(code) if code else one_line(error, 200)
        raise UserError(f"cannot write {path} ({reason}; {_room(Path(path), code, needed)}): {advice}") from error


def _refusal(error: Exception, path: Path) -> int | None:
    """The errno by which the system refused to write; 0 if that is unknown, None if it did not."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # as libraries in Rust say it
        return int(found[1])
    return _tried(path) if isinstance(error, (OSError, SafetensorError)) else None


def _tried(path: Path) -> int:
    """Write a megabyte beside `path`, for libraries that do not say what the system said -> its errno, or 0."""
    try:
        with tempfile.TemporaryFile(dir=_existing(path)) as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        return error.errno or 0
    return 0


def _existing(path: Path) -> Path:
    """The nearest folder of `path` that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def free_bytes(path: str | Path) -> int:
    """The room on the disk of `path`, which need not exist yet. Quotas and limits of a process are not seen here."""
    return shutil.disk_usage(_existing(Path(path))).free


def file_limit() -> int | None:
    """The most bytes that this process may write into one file (ulimit -f), None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _room(path: Path, code: int, needed: int | None) -> str:
    """The bytes that are needed, and those that are there: of the disk, unless a quota or a limit has refused."""
    known = f"{needed:,} bytes needed, " if needed is not None else ""
    if code == errno.EFBIG and (limit := file_limit()) is not None:
        return f"{known}{limit:,} bytes a file are allowed by ulimit -f"
    if code == errno.EDQUOT:
        return f"{known}your quota on {_existing(path)} is used up"
    return f"{known}{free_bytes(path):,} bytes free"


def user_message(error: UserError | OSError) -> str | None:
    """What to tell the user; None if it is not theirs to mend: an OSError other than a file that the system refuses."""
    if isinstance(error, UserError):
        return str(error)
    if error.filename is None and error.errno in NO_ROOM:  # while a file was written that was open already
        return f"cannot write ({error.strerror}): make room, then start the same command again"
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


def _mend_streams() -> None:
    """Give a stream that was closed, as by cron or `2>&-`, to nobody, and let all text through the others.

    Of a closed one Python makes None, on which prints of libraries fail. What an encoding does not have becomes a
    question mark: an answer or a report that is computed is not lost for one letter. stderr lets all through by itself.
    stdin keeps bytes that are no text as lone surrogates, as Python does for arguments: a question of these is refused.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open to the end)
        elif name != "stderr" and isinstance(stream, io.TextIOWrapper):
            errors = "surrogateescape" if name == "stdin" else "replace"
            if stream.errors != errors:
                stream.reconfigure(errors=errors)


def told_once(check: Callable[[], None]) -> None:
    """Call `check` on each process, before they have met. Its UserError is told by the first of each machine.

    The others end with the same exit code.
    """
    try:
        check()
    except UserError:
        if os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) != "0":
            raise SystemExit(2) from None
        raise


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`, and report what the user can mend in one line on stderr, with exit code 2.

    That is a `UserError`, or a file that the system refuses to read or write. LEVLM_DEBUG=1 keeps the traceback. What
    is told to stop, by a signal or by the death of its launcher, says so in one line and exits with 130, 143 or 129. If
    the reader of a pipe has gone, as in `command | head`, the exit code is 141, as a shell has it.
    """
    outlive_readers()
    _mend_streams()
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


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def _check_surroundings() -> None:
    """Refuse a folder that is gone, and what no launcher leaves in the environment: a part of RANK, WORLD_SIZE,
    MASTER_ADDR and MASTER_PORT. A process that takes itself for the second of several would save nothing.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder has been deleted: cd to another one") from None
    told = {name: os.environ.get(name, "").strip() for name in _LAUNCHED}
    for name in [name for name in _COUNTS if not told[name]]:
        os.environ.pop(name, None)  # empty is not there
    says = ", ".join(f"{name}={told[name] or '(nothing)'}" for name in _LAUNCHED)
    advice = "start by torchrun, deepspeed or accelerate launch, which set all four, or go on alone by " + " ".join(
        ["env", *(f"-u {name}" for name in _COUNTS), "COMMAND"]
    )
    if not all((told[name] or "0").isdecimal() for name in _COUNTS):
        raise UserError(f"the environment has {says}; needed are numbers: {advice}")
    rank, size = int(told["RANK"] or 0), int(told["WORLD_SIZE"] or 1)
    if rank >= size or (size > 1 and not all(told.values())):
        raise UserError(f"the environment has {says}, which is no place among several processes: {advice}")


def _reported(main: Callable[[], None]) -> None:
    try:
        with stoppable():
            _check_surroundings()
            allowed_pixels()  # else each picture of a data set would fail by a mistake in the environment
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
    except (RuntimeError, MemoryError) as error:  # those that `vlm.device.enough_memory` has not met
        if not memory_ran_out(error) or os.environ.get("LEVLM_DEBUG") == "1":
            raise
        text = " ".join(str(error).split())[:200] or "the machine has no more"
        print(f"error: out of memory ({text}): close what else uses it, or give less at a time", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Stopped) as stop:
        sys.exit(last_words(stop))
