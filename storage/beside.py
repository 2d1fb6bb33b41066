"""Files in the making: hidden beside the file they become, and gone when the run that makes them is."""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def hidden_beside(target: Path, suffix: str = "") -> Iterator[Path]:
    """An empty file ``.NAME.UUID.partial`` beside ``target`` (and a suffix), which is removed when the context ends.

    No two runs have one of the same name. A lock on it (flock) says that its run lives; those of runs that were killed
    are removed first.
    """
    remove_left(target)
    while True:
        beside = target.with_name(f".{target.name}.{uuid4().hex[:12]}.partial{suffix}")
        try:
            with beside.open("xb") as held:
                if _locked(held, beside):
                    yield beside
                    return
        finally:
            beside.unlink(missing_ok=True)


def remove_left(target: Path) -> None:
    """Remove what runs that were killed left of `hidden_beside`."""
    left = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.partial(\.\w+)?")
    with suppress(OSError):  # a folder that is not there, or cannot be read, is told of by who writes there
        for path in [path for path in target.parent.iterdir() if left.fullmatch(path.name)]:
            with suppress(OSError), path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error: its run lives
                path.unlink()


def _locked(held: BinaryIO, path: Path) -> bool:
    """Lock a new file; False where it was taken for one that was left, just before."""
    with suppress(OSError):  # a file system without locks, where nothing is taken for left either
        fcntl.flock(held, fcntl.LOCK_EX)
    return path.exists()
