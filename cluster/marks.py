"""Marks: who owns an output, said by which file there is, not by what a file says.

Owning epoch 8 of an output is having made its mark ``epoch.8``: a file or object that is made exclusively
(O_EXCL, or a conditional PUT) beside the lock, with the owner in it. A new owner makes the next mark and
removes all earlier ones before it does anything else, so an old run finds out by reading its own mark. A
mark is never written again but for its release: no late write of an old run can bring it back.
"""

import errno
import fcntl
import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO

from skysom.cluster.errors import LockedError
from skysom.storage.errors import PlaceError
from skysom.storage.place import Place, entries, patiently, remove

PREFIX = "epoch."
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
STORE_DEADLINE_S = 120.0
_HELD: set[str] = set()
"""Runs (their names) that this process has marks of; one that it could not release, the store being away, is over."""


@dataclass(frozen=True)
class Owner:
    """A run that owns an output; the defaults are those of a text that does not tell.

    boot, pid_namespace: on which running kernel, and in which of its tables, the pid means something;
    started_s: creation time of the process (s since 1970); run: unique; lease_s: how long its lock is
    good for without being renewed; released: it has ended and owns nothing.
    """

    pid: int = 0
    host: str = ""
    since: str = ""
    boot: str = ""
    pid_namespace: str = ""
    started_s: float = 0.0
    epoch: int = 0
    run: str = ""
    lease_s: float = 0.0
    released: bool = False

    def __str__(self) -> str:
        if not self.pid:
            return "a run that does not tell its name"
        return f"process {self.pid} on {self.host} since {self.since}"

    @classmethod
    def parse(cls, data: bytes | None) -> "Owner | None":
        """The owner that ``data`` names; None where it names none (nothing there, empty, torn)."""
        try:
            found = json.loads(data or b"null")
        except ValueError:
            return None
        if not isinstance(found, dict):
            return None
        kinds = {field.name: type(field.default) for field in fields(cls)}
        told = {name: value for name, value in found.items() if name in kinds and _fits(value, kinds[name])}
        return cls(**told)

    def dumps(self, **more: int) -> bytes:
        return json.dumps(asdict(self) | more).encode()


def _fits(value: object, kind: type) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def identity() -> dict[str, str]:
    """What tells this machine, and the pid table of this process, from others (values of an Owner)."""
    found = {"host": socket.gethostname(), "boot": "", "pid_namespace": ""}
    try:
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found["pid_namespace"] = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux; where the clock is set meanwhile, only leases tell
        import psutil

        found["boot"] = f"{found['host']} {psutil.boot_time():.0f}"
    return found


def this_run(epoch: int, lease_s: float) -> Owner:
    """This process as an owner."""
    import psutil

    here = identity()
    return Owner(
        pid=os.getpid(),
        host=here["host"],
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        boot=here["boot"],
        pid_namespace=here["pid_namespace"],
        started_s=psutil.Process().create_time(),
        epoch=epoch,
        run=uuid.uuid4().hex,
        lease_s=lease_s,
    )


def mark_of(private: Place, epoch: int) -> Place:
    """Where the mark of ``epoch`` is."""
    return private / f"{PREFIX}{epoch}"


def epochs(private: Place) -> list[int]:
    """The epochs that have a mark, rising."""
    endings = [found.name.removeprefix(PREFIX) for found in entries(private) if found.name.startswith(PREFIX)]
    return sorted(int(ending) for ending in endings if ending.isdecimal())


def content(where: Place, deadline_s: float = STORE_DEADLINE_S) -> bytes | None:
    """The bytes of a file or object as they are now, or None; OSError or a StorageError where they cannot be read."""
    try:
        if isinstance(where, Path):
            return patiently(where.read_bytes, deadline_s=deadline_s)
        return patiently(where.fs.cat_file, where.path, deadline_s=deadline_s)
    except FileNotFoundError:
        return None
    except PlaceError as error:
        if isinstance(where, Path) and isinstance(error.__cause__, OSError):  # its remedy is one for stores
            raise error.__cause__ from None
        raise


# --- making one -----------------------------------------------------------------------------------


class Mark:
    """The mark this process has made; a local one is locked (flock) until it is closed or the process dies."""

    def __init__(self, where: Place, owner: Owner, file: IO[bytes] | None) -> None:
        self.where = where
        self.owner = owner
        self._file = file

    def is_there(self, deadline_s: float = STORE_DEADLINE_S) -> bool:
        """Whether no other run has removed it."""
        found = Owner.parse(content(self.where, deadline_s))
        return found is not None and found.run == self.owner.run

    def release(self, deadline_s: float) -> None:
        """Write that it is free: its number stays taken."""
        data = replace(self.owner, released=True).dumps()
        if self._file is not None:
            os.pwrite(self._file.fileno(), data.replace(b"true}", b"true }"), 0)  # as long as before: never torn
        elif not isinstance(self.where, Path):
            patiently(self.where.fs.pipe_file, self.where.path, data, deadline_s=deadline_s)

    def close(self) -> None:
        _HELD.discard(self.owner.run)
        if self._file is not None:
            self._file.close()
            self._file = None


def make_mark(private: Place, owner: Owner) -> Mark | None:
    """Make the mark of ``owner.epoch``; None where there is one.

    Raises LockedError where the file system has no locks, or the store ignores the condition of a PUT.
    """
    where, data = mark_of(private, owner.epoch), owner.dumps()
    _HELD.add(owner.run)  # before others can see the mark
    if isinstance(where, Path):
        file = _make_file(where, data)
        return Mark(where, owner, file) if file is not None else None
    return Mark(where, owner, None) if _make_object(where, data) else None


def _make_file(where: Path, data: bytes) -> IO[bytes] | None:
    try:
        file = where.open("xb")
    except FileExistsError:
        return None
    try:
        # Locked before it says anything: whoever can read the owner finds the lock of a living one.
        _lock_soon(file, where)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    except BaseException:
        where.unlink(missing_ok=True)
        file.close()
        raise
    return file


def _lock_soon(file: IO[bytes], where: Path, wait_s: float = 10.0) -> None:
    """Lock a new file; others may hold it for the moment in which they look whether its owner lives."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LockedError(f"{where} is locked by another process for {wait_s:.0f} s; try again") from None
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            raise LockedError(
                f"the file system of {where.parent.parent} has no file locks ({error.strerror}); mount it with them "
                "(Lustre: flock; NFS: without nolock) or choose another --output"
            ) from None


def _make_object(where: Place, data: bytes) -> bool:
    assert not isinstance(where, Path)
    try:
        patiently(where.fs.pipe_file, where.path, data, mode="create")
    except OSError as error:
        found = content(where)
        if found is None and not isinstance(error, FileExistsError):
            raise
        return found == data  # a PUT whose answer was lost is found made when it is tried again
    try:
        patiently(where.fs.pipe_file, where.path, data, mode="create")
    except OSError:
        return True
    remove(where)
    raise LockedError(
        f"the store of {where} made one object twice: it ignores the condition If-None-Match, so two runs could not "
        "be kept apart; use a store with conditional writes (AWS S3, MinIO, Ceph, R2), or a local --output"
    )


# --- whether its owner lives ----------------------------------------------------------------------


def is_alive(owner: Owner, mark: Place) -> bool | None:
    """Whether ``owner``, whose mark this is, lives; None where only its lease can tell."""
    here = identity()
    if not owner.boot or owner.boot != here["boot"]:
        return None
    if isinstance(mark, Path):
        return _is_locked(mark)
    if (owner.host, owner.pid_namespace) != (here["host"], here["pid_namespace"]):
        return None
    return _process_lives(owner)


def _is_locked(mark: Path) -> bool | None:
    try:
        with mark.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return True
    return False


def _process_lives(owner: Owner) -> bool | None:
    import psutil

    if owner.pid == os.getpid() and owner.run not in _HELD:
        return False
    try:
        process = psutil.Process(owner.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # Another start under the same pid may be another process, or a clock that was set meanwhile.
        return True if abs(process.create_time() - owner.started_s) < 1.0 else None
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return None
