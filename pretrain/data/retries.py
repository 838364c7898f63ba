"""Requests to a store are tried again while what goes wrong may pass.

That is 429, 5xx, time-outs, cut connections and cut answers; the pauses grow. What will not pass (401, 403, 404) is one
line at once. Each store raises what its own libraries do, so errors are told by status, number and the class's name.
"""

import asyncio
import errno
import random
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TypeVar

from vlm.errors import UserError

TRIES = 7
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds: .5, 1, 2, 4, 8, 16, each up to a half longer at random
TOLD_TRY = 4  # from this one on a user is told that a store keeps the run waiting
# Errors that may pass, by the name of their class: those of aiohttp, httpx, botocore, requests and Python.
PASSING = {
    "ClientConnectionError", "ClientPayloadError", "TransportError", "HTTPClientError", "EndpointConnectionError",
    "ConnectionClosedError", "IncompleteReadError", "IncompleteRead", "ResponseStreamingError", "ConnectionError",
    "TimeoutError", "FSTimeoutError", "ShortAnswer",
}  # fmt: skip
LASTING = {
    "ClientSSLError",
    "ClientConnectorCertificateError",
    "SSLError",
    "OfflineModeIsEnabled",
}  # connection errors too
PASSING_ERRNO = {
    errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE, errno.ENETUNREACH, errno.EHOSTUNREACH
}  # fmt: skip
PASSING_STATUS = {408, 425, 429}  # and 500 to 599
Result = TypeVar("Result")


class ShortAnswer(Exception):
    """A store gave fewer bytes than it was asked for."""


def persist(call: Callable[[], Result], name: str) -> Result:
    """What `call()` gives, at the first try or a later one. Raises: UserError, which says what of `name` went wrong."""
    began = time.monotonic()
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except (UserError, TypeError, AttributeError, NameError):  # said already, or a mistake of ours
            raise
        except Exception as error:
            reason = _reason(error)
            if not _may_pass(error):
                raise UserError(f"cannot read {name}: {reason}{_advice(error, name)}") from error
            if attempt == TRIES:
                given_up = f"{TRIES} tries in {time.monotonic() - began:.0f} s"
                raise UserError(f"cannot read {name}: {reason} ({given_up}): try again later") from error
            if attempt >= TOLD_TRY - 1:
                print(f"waiting for {name}: {reason}; try {attempt + 1} of {TRIES}", file=sys.stderr, flush=True)
            longer = random.Random().uniform(1, 1.5)  # of the system's own entropy: forked workers differ
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * longer
            time.sleep(max(pause, min(LONGEST_PAUSE, _asked_pause(error))))
    raise AssertionError("the last try returns or raises")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it: fsspec reports a server's 503 as a file that is missing."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind an error: of aiohttp, gcsfs, httpx and botocore, in this order."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        in_botocore = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        found = (getattr(link, "status", None), getattr(link, "code", None), getattr(response, "status_code", None))
        for value in (*found, in_botocore):
            if str(value).isdigit() and 400 <= int(str(value)) < 600:
                return int(str(value))
    return None


def _may_pass(error: BaseException) -> bool:
    for link in _chain(error):
        names = {kind.__name__ for kind in type(link).__mro__}
        code = getattr(link, "errno", None)
        if names & LASTING or code == socket.EAI_NONAME:  # a host without address
            return False
        if names & PASSING or isinstance(link, asyncio.TimeoutError) or code in PASSING_ERRNO:
            return True
    status = http_status(error)
    return status is not None and (status in PASSING_STATUS or status >= 500)


def _asked_pause(error: BaseException) -> float:
    """Seconds that the server asks to wait (Retry-After), or 0."""
    for link in _chain(error):
        value = str((getattr(link, "headers", None) or {}).get("Retry-After", ""))
        if value.isdigit():
            return float(value)
    return 0.0


def _reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    if status := http_status(error):
        known = {int(entry): entry.phrase for entry in HTTPStatus}
        return f"{status} {known.get(status, '')}".strip()
    if isinstance(error, FileNotFoundError):
        if error.__cause__ is None:
            return "it does not exist"
        error = error.__cause__  # fsspec says so of servers that it does not reach, too
    text = re.sub(r"\?\S+", "", " ".join(str(error).split()))[:200]  # no signatures
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _advice(error: BaseException, name: str) -> str:
    status = http_status(error)
    refused = isinstance(error, PermissionError) or "Credentials" in type(error).__name__ or status in (401, 403)
    if refused:
        scheme = name.partition("://")[0]
        public = ", or FSSPEC_S3_ANON=true for a public bucket" if scheme in ("s3", "s3a") else ""
        return f"; give credentials in the environment that fsspec's {scheme} package reads{public}"
    return "; check the address" if status in (404, 410) or isinstance(error, FileNotFoundError) else ""
