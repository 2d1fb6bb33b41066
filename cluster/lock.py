"""One run an output: a lock file that dies with its owner, and a fence that lives as long as its workers.

The operating system holds both (flock), so they are free the moment their holders are killed. Worker
processes outlive a killed driver by seconds; a new owner waits at the fence until they are gone, so
two runs never write at the same time. The lock's text names the owner for the message. A lock of
another host on a shared file system is respected.
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from skysom.cluster.errors import LockedError

FENCE = "workers"
"""Name of the fence, beside the lock and the ledger."""


class OutputLock:
    """Context manager that holds ``path`` exclusively.

    Raises LockedError while another run holds it, and when worker processes of an earlier run still
    live after wait_s seconds.
    """

    def __init__(self, path: Path, wait_s: float = 60.0) -> None:
        self.path = path
        self.wait_s = wait_s
        self._file: IO[str] | None = None

    def __enter__(self) -> "OutputLock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+")
        owner = _owner(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise LockedError(
                f"{self.path.parent.parent} is in use by process {owner.get('pid')} on {owner.get('host')} "
                f"since {owner.get('since')}; wait for it, stop it, or choose another --output"
            ) from None
        if owner and owner.get("host") != socket.gethostname():
            file.close()
            raise LockedError(
                f"{self.path} was left by process {owner.get('pid')} on host {owner.get('host')} since "
                f"{owner.get('since')}, and this is {socket.gethostname()}: if that run is dead, delete the file"
            )
        file.seek(0)
        file.truncate()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        self._file = file
        try:
            _wait_at_fence(self.path.with_name(FENCE), self.wait_s)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.close()
            self._file = None


def hold_fence(path: Path) -> IO[str]:
    """Hold ``path`` together with other workers while the returned file is open; names this process in it."""
    file = path.open("a+")
    fcntl.flock(file, fcntl.LOCK_SH)
    file.write(f"{os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _wait_at_fence(path: Path, wait_s: float) -> None:
    """Return when no worker holds ``path``; LockedError after ``wait_s`` seconds."""
    deadline = time.monotonic() + wait_s
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    workers = ", ".join(file.read().split("\n")).strip(", ")
                    raise LockedError(
                        f"worker processes of an earlier run still use {path.parent.parent} after {wait_s:.0f} s; "
                        f"stop them and run the same command again (some of: {workers})"
                    ) from None
                time.sleep(0.05)
        file.truncate(0)


def _owner(file: IO[str]) -> dict:
    file.seek(0)
    try:
        return dict(json.loads(file.read() or "{}"))
    except (ValueError, TypeError):
        return {}
