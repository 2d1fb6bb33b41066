"""One run an output: a lock file that dies with its owner.

The operating system holds the lock (flock), so it is free the moment its owner is killed; the file's
text names the owner for the message. A lock of another host on a shared file system is respected.
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


class OutputLock:
    """Context manager that holds ``path`` exclusively; raises LockedError while another run holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.close()
            self._file = None


def _owner(file: IO[str]) -> dict:
    file.seek(0)
    try:
        return dict(json.loads(file.read() or "{}"))
    except (ValueError, TypeError):
        return {}
