"""Patience with a remote store: what does not answer for a while delays a run and does not end it.

Waiting is announced once through `logging` (logger ``skysom.storage``, level WARNING), which Python prints
on standard error unless the application set it up otherwise.
"""

import asyncio
import errno
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from skysom.storage.errors import PlaceError, StorageError, StoreUnreachableError

DEADLINE_S = 120.0
"""How long a store may stay silent."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 0.2, 10.0, 1.7
ANNOUNCE_EVERY_S = 30.0
"""A store that comes and goes is announced no more often than this."""

ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""OSErrors with which a store that is reached answers a question."""
FINAL_ERRNO = frozenset(
    getattr(errno, name, errno.EINVAL)
    for name in ("EINVAL", "EPERM", "ENOSYS", "ENAMETOOLONG", "EMSGSIZE", "ENOTEMPTY", "EREMCHG")
)
"""Error numbers of requests that would be refused again (as s3fs translates the codes of S3)."""
PRECONDITION = ("PreconditionFailed", "412", "ConditionalRequestConflict")
TRANSIENT = {
    "botocore.exceptions": ("HTTPClientError", "ConnectionError", "EndpointConnectionError", "ResponseParserError"),
    "botocore.parsers": ("ResponseParserError",),
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "http.client": ("IncompleteRead",),
}
"""Errors of transport that are no OSError, by module; only modules that are loaded can have raised one."""


def patiently(call: Callable[..., Any], *args: Any, deadline_s: float = DEADLINE_S, **named: Any) -> Any:
    """``call(*args, **named)`` on a remote store, again after growing pauses while the store does not answer.

    ``call`` must be safe to repeat (a read, a PUT of the whole object, a deletion).

    Raises
    ------
    StoreUnreachableError : no answer for ``deadline_s`` seconds.
    PlaceError : the store refuses: no permission, no credentials, a request it does not take.
    OSError : what a store that is reached answers (FileNotFoundError, FileExistsError, a failed precondition).
    """
    pauses = _pauses(deadline_s)
    while True:
        try:
            result = call(*args, **named)
        except Exception as error:
            time.sleep(_pause(error, pauses, deadline_s))
        else:
            _STATE.answered()
            return result


async def patiently_async(call: Callable[..., Awaitable[Any]], *args: Any, deadline_s: float = DEADLINE_S) -> Any:
    """`patiently` for a coroutine function."""
    pauses = _pauses(deadline_s)
    while True:
        try:
            result = await call(*args)
        except Exception as error:
            await asyncio.sleep(_pause(error, pauses, deadline_s))
        else:
            _STATE.answered()
            return result


def is_transient(error: BaseException) -> bool:
    """Whether ``error`` says that a store did not answer, or is busy, rather than what it answers."""
    if isinstance(error, OSError):
        final = (*ANSWERS, PermissionError)
        return not isinstance(error, final) and error.errno not in FINAL_ERRNO
    for module, names in TRANSIENT.items():
        loaded = sys.modules.get(module)
        if loaded is not None and any(isinstance(error, getattr(loaded, name, ())) for name in names):
            return True
    return False


def _pauses(deadline_s: float) -> Iterator[float]:
    """Pauses until ``deadline_s`` after the first of them was asked for."""
    end, pause = None, FIRST_PAUSE_S
    while end is None or time.monotonic() < end:
        end = end or time.monotonic() + deadline_s
        yield min(pause, max(end - time.monotonic(), 0.01))
        pause = min(pause * GROWTH, LONGEST_PAUSE_S)


def _pause(error: Exception, pauses: Iterator[float], deadline_s: float) -> float:
    """Seconds to wait before the next try; raises where there is to be none."""
    if not is_transient(error):
        raise _refusal(error) from error
    pause = next(pauses, None)
    if pause is None:
        raise StoreUnreachableError(
            f"the store did not answer for {deadline_s:.0f} s ({_said(error)}); check that it runs, the network and "
            "its address (for S3 AWS_ENDPOINT_URL), then run the same command again to go on"
        ) from error
    _STATE.waits(f"the store does not answer ({_said(error)}); waiting for it, up to {deadline_s:.0f} s")
    return pause


def _refusal(error: Exception) -> Exception:
    """``error`` itself where callers decide by it, else a PlaceError with the remedy."""
    if isinstance(error, (*ANSWERS, StorageError)):
        return error
    name = type(error).__name__
    if isinstance(error, PermissionError) or "Credential" in name or "Token" in name:
        return PlaceError(
            f"the store refuses access ({_said(error)}); give credentials that may read and write there (for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    if isinstance(error, OSError):
        response = getattr(error.__cause__, "response", None) or {}
        if response.get("Error", {}).get("Code") not in PRECONDITION:
            return PlaceError(f"the store refuses the request ({_said(error)}); check the URL and the endpoint")
    return error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@dataclass
class _State:
    """Whether this process waits for a store, so that all who wait announce it once."""

    since: float | None = None
    announced: float | None = None
    lock: Any = field(default_factory=threading.Lock)

    def waits(self, text: str) -> None:
        with self.lock:
            now = time.monotonic()
            if self.since is None and (self.announced is None or now - self.announced >= ANNOUNCE_EVERY_S):
                self.announced = now
                logging.getLogger("skysom.storage").warning(text)
            self.since = now if self.since is None else self.since

    def answered(self) -> None:
        if self.since is None:
            return
        with self.lock:
            if self.since is not None and self.announced == self.since:
                logging.getLogger("skysom.storage").warning(
                    "the store answers again after %.0f s", time.monotonic() - self.since
                )
            self.since = None


_STATE = _State()
