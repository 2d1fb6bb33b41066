"""Where a join that takes long is made: a folder beside the result; after a kill the same command goes on there."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from uuid import uuid4

from skysom.cluster.errors import FencedError, LockedError
from skysom.cluster.lock import OutputLock
from skysom.jobs.errors import ConfigError
from skysom.jobs.progress import say
from skysom.storage.beside import remove_left
from skysom.storage.place import Place, place, sync_directory, write_atomically
from skysom.storage.table_stream import is_hats

Kind = Literal["file", "directory"]


class WorkFolder:
    """Context manager: the folder ``.NAME.join`` beside ``target``, held by one run at a time.

    target : a directory (or a file, if ``kind`` says so) that is not there yet, or is to be replaced. claim : plain
    values that say what is made of what. ``tree`` is where the directory grows that is to become the target.

    Its life, in which a kill at any point loses and mixes nothing:

    1. A run takes the lock, puts ``old`` back if there is one (see 3), and looks again at the target.
    2. The folder is kept if it has a ``tree`` and ``claim.json`` says the same. Otherwise it is emptied, the claim
       first, and gets a tree and then a claim. So a claim stands for all that the folder has, and a killed run leaves
       it to the next.
    3. `publish` looks once more at the target, moves one that is there to ``old``, and what was made into its place.
       From then on there is no ``tree``, which says that the folder has done its work.
    4. At the end a folder that has done its work, or in which none was begun, gets the name ``.NAME.join-UUID``, under
       the lock, and is removed. What a kill leaves of that, the next run removes, also one that is refused.

    Raises
    ------
    ConfigError : see `local_target`. LockedError : another run makes it.
    """

    def __init__(
        self, target: str | Place, claim: Mapping[str, Any], *, overwrite: bool = False, kind: Kind = "directory"
    ) -> None:
        self.target = local_target(target, overwrite, kind)
        self.path = _folder_of(self.target)
        self.tree = self.path / "tree"
        self.claim = json.loads(json.dumps(dict(claim)))
        self._old = self.path / "old"
        self._overwrite, self._kind = overwrite, kind
        self._lock = _lock_of(self.path)

    def __enter__(self) -> "WorkFolder":
        self._lock.__enter__()
        try:
            if self._lock.taken_over:
                say(self._lock.taken_over)
            if self._old.exists() and self.tree.exists() and not self.target.exists():
                self._old.rename(self.target)
            check_target(self.target, self._overwrite, self._kind)
            if not self._goes_on():
                self._clear()
                self.tree.mkdir()
                write_atomically(self.path / "claim.json", json.dumps(self.claim, indent=1).encode())
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def check(self) -> None:
        """FencedError where another run has taken the folder over."""
        self._lock.check()

    def publish(self, made: Path) -> None:
        """Put what was made, the tree or a file in the folder, in the place of the target.

        Raises
        ------
        ConfigError : the target has come to be meanwhile, and is not to be replaced.
        """
        self.check()
        check_target(self.target, self._overwrite, self._kind)
        if made != self.tree:
            self.tree.rename(self.path / "done")  # at once: half a tree would be believed
        if self.target.is_dir():
            if self._old.exists():
                shutil.rmtree(self._old)
            self.target.rename(self._old)
        made.rename(self.target)
        sync_directory(self.target.parent)

    def _goes_on(self) -> bool:
        """Whether what is there is of an interrupted run of the same claim."""
        claimed = self.path / "claim.json"
        if not claimed.exists() or not self.tree.exists():
            return False
        if json.loads(claimed.read_text() or "null") == self.claim:
            return True
        say(f"what an interrupted run with other settings left in {self.path} is discarded")
        return False

    def _clear(self) -> None:
        (self.path / "claim.json").unlink(missing_ok=True)
        for entry in self.path.iterdir():
            if entry.name == ".skysom":
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _leave(self) -> None:
        gone = None
        with suppress(FencedError):  # another run's now
            self.check()
            if not self.tree.exists() or not self._begun():
                gone = _set_aside(self.path)
        self._lock.__exit__(None, None, None)
        if gone is not None:
            shutil.rmtree(gone, ignore_errors=True)

    def _begun(self) -> bool:
        """Whether anything was made that the next run could go on with."""
        known = {self.tree.name, "claim.json", ".skysom"}
        return any(self.tree.iterdir()) or any(entry.name not in known for entry in self.path.iterdir())


def local_target(target: str | Place, overwrite: bool, kind: Kind) -> Path:
    """The path of a result that is not there yet, or is to be replaced, in a folder that is and can be written.

    kind : what the result is. Only a HATS catalogue is replaced by a directory, no other folder. What runs that were
    killed after they had made it, or that made it in one go, left beside it is removed.

    Raises
    ------
    ConfigError : it is there, or is of the other kind; it is a URL; its folder is missing, or cannot be written.
    """
    path = place(target)
    if not isinstance(path, Path):
        raise ConfigError(f"{path} is in an object store; joins are written to a file system: copy the result there")
    path = path.absolute()
    if path.parent.is_dir():
        _remove_done(path)
    check_target(path, overwrite, kind)
    return path


def check_target(path: Path, overwrite: bool, kind: Kind) -> None:
    """ConfigError of `local_target`."""
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already; give --overwrite, or another name")
    if path.exists() and path.is_dir() != (kind == "directory"):
        there = "directory" if path.is_dir() else "file"
        raise ConfigError(f"{path} is a {there}, and the result is a {kind}; remove it, or give another name")
    if path.is_dir() and not is_hats(path) and any(path.iterdir()):
        raise ConfigError(f"{path} is a directory of other files, no HATS catalogue; remove it, or give another name")
    if kind == "directory" and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path.name):
        raise ConfigError(f"{path.name} reads as a URL, and could not be opened; give a name without a colon")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no directory; make it, or write elsewhere")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ConfigError(f"{path.parent} cannot be written ({error.strerror}); write elsewhere") from error


def _folder_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.join")


def _lock_of(folder: Path) -> OutputLock:
    return OutputLock(folder / ".skysom" / "lock", on_wait=say)


def _set_aside(folder: Path) -> Path:
    """Give a folder of no further use, whose lock is held, the name of one that anyone may remove."""
    return folder.rename(folder.with_name(f"{folder.name}-{uuid4().hex[:12]}"))


def _remove_done(target: Path) -> None:
    """Remove what runs that were killed as they cleaned up left beside a target, but no work to go on with."""
    remove_left(target)
    folder = _folder_of(target)
    if folder.is_dir() and not (folder / "tree").exists():
        with suppress(LockedError), _lock_of(folder):  # locked: a run begins there, or ends
            if not (folder / "tree").exists():
                _set_aside(folder)
    gone = re.compile(re.escape(folder.name) + r"-[0-9a-f]{12}")
    for path in [path for path in target.parent.iterdir() if gone.fullmatch(path.name)]:
        shutil.rmtree(path, ignore_errors=True)
