"""Where a join that takes long is made: a folder beside the result; after a kill the same command goes on there."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from skysom.cluster.lock import OutputLock
from skysom.jobs.errors import ConfigError
from skysom.jobs.progress import say
from skysom.storage.place import Place, place, sync_directory, write_atomically
from skysom.storage.table_stream import is_hats

Kind = Literal["file", "directory"]


class WorkFolder:
    """Context manager: the folder ``.NAME.join`` beside ``target``, held by one run at a time.

    target : a directory (or a file, if ``kind`` says so) that is not there yet. claim : plain values that say what is
    made of what. What an interrupted run with the same claim left is kept, anything else is discarded. ``tree`` is to
    become the target.

    Raises
    ------
    ConfigError : see `local_target`. LockedError : another run makes it.
    """

    def __init__(
        self, target: str | Place, claim: Mapping[str, Any], *, overwrite: bool = False, kind: Kind = "directory"
    ) -> None:
        self.target = local_target(target, overwrite, kind)
        self.path = self.target.with_name(f".{self.target.name}.join")
        self.tree = self.path / "tree"
        self.claim = json.loads(json.dumps(dict(claim)))
        self._lock = OutputLock(self.path / ".skysom" / "lock", on_wait=say)

    def __enter__(self) -> "WorkFolder":
        self._lock.__enter__()
        try:
            if self._lock.taken_over:
                say(self._lock.taken_over)
            claimed = self.path / "claim.json"
            if not claimed.exists() or json.loads(claimed.read_text() or "null") != self.claim:
                if claimed.exists():
                    say(f"what an interrupted run with other settings left in {self.path} is discarded")
                self._clear()
                write_atomically(claimed, json.dumps(self.claim, indent=1).encode())
            self.tree.mkdir(exist_ok=True)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)
        if kind is None and not self.tree.exists():
            shutil.rmtree(self.path)

    def check(self) -> None:
        """FencedError where another run has taken the folder over."""
        self._lock.check()

    def publish(self, made: Path) -> None:
        """Put what was made in the place of the target, and drop the rest when the context ends."""
        self.check()
        if self.target.is_dir():
            old = self.path / "old"
            self.target.rename(old)
        made.rename(self.target)
        sync_directory(self.target.parent)
        self.done()

    def done(self) -> None:
        """Nothing of the folder is needed any more; it goes when the context ends."""
        if self.tree.exists():
            self.tree.rename(self.path / "done")  # a folder without a tree is finished, see `local_target`

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.name == ".skysom":
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def local_target(target: str | Place, overwrite: bool, kind: Kind) -> Path:
    """The path of a result that is not there yet, or is to be replaced, in a folder that is.

    kind : what the result is. Only a HATS catalogue is replaced by a directory, no other folder.

    Raises
    ------
    ConfigError : it is there, or is of the other kind; it is a URL; or its folder is missing.
    """
    path = place(target)
    if not isinstance(path, Path):
        raise ConfigError(f"{path} is in an object store; joins are written to a file system: copy the result there")
    path = path.absolute()
    if path.exists() and not overwrite:
        left = path.with_name(f".{path.name}.join")
        if (left / "claim.json").exists() and not (left / "tree").exists():
            shutil.rmtree(left)  # of a run that was killed as it cleaned up
        raise ConfigError(f"{path} is there already; give --overwrite, or another name")
    if path.exists() and path.is_dir() != (kind == "directory"):
        there = "directory" if path.is_dir() else "file"
        raise ConfigError(f"{path} is a {there}, and the result is a {kind}; remove it, or give another name")
    if path.is_dir() and not is_hats(path) and any(path.iterdir()):
        raise ConfigError(f"{path} is a directory of other files, no HATS catalogue; remove it, or give another name")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no directory; make it, or write elsewhere")
    return path
