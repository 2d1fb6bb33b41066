"""One run an output: a lock that its owner renews, and a fence that lives as long as the workers of this host.

Who owns an output is said by `marks`: epoch 8 follows 7, and exactly one process makes the mark of 8. The lock
beside them is a text that its owner writes anew every quarter of its lease. Whether an owner lives is known at
once on its own host (on a file system by its flock, else by its process); of another host a newcomer watches
the lock by its own clock, and one that stays the same for a lease is dead.

Worker processes outlive a killed driver by seconds. Those of this host are waited for (flock on the fence, on
file systems); those anywhere else are fenced by their guard, see `fence`.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from skysom.cluster.errors import FencedError, LockedError
from skysom.cluster.fence import Guard
from skysom.cluster.marks import Mark, Owner, content, epochs, is_alive, make_mark, mark_of, this_run
from skysom.storage.errors import StorageError
from skysom.storage.place import Place, make_directory, patiently, remove, write_atomically

FENCE = "workers"
"""Name of the fence, beside the lock and the ledger."""


@dataclass(frozen=True)
class _Scene:
    """What a newcomer sees: the highest mark and the lock."""

    epoch: int
    mark: bytes | None
    text: bytes | None

    @property
    def owner(self) -> Owner | None:
        """Who owns the output or has died owning it; None where it is free."""
        marked, written = Owner.parse(self.mark), Owner.parse(self.text)
        if marked is None:
            return (written or Owner()) if self.mark == b"" else written  # b"": made, and about to be filled
        if not marked.released:
            return marked
        return None if written is None or written.run == marked.run else written

    @property
    def next_epoch(self) -> int:
        """Never one that was: the lock remembers where marks were deleted."""
        written = Owner.parse(self.text)
        return max(self.epoch, written.epoch if written is not None else 0) + 1


class OutputLock:
    """Context manager that owns the output whose lock is ``path`` (a Place; its directory is the private one).

    wait_s: how long to wait for workers that a dead run left on this host, and for a silent store; lease_s:
    how long the lock stays good without being renewed; on_wait: told in a sentence before a longer wait.

    Inside: ``epoch`` (one more than that of the owner before), ``taken_over`` (a sentence where a dead run
    was replaced, else ""), `guard` for workers, `check` and ``lost`` for this process.

    Raises LockedError on entry while another run owns it, when worker processes of an earlier run still live
    after wait_s, and where the lock cannot be read or written.
    """

    def __init__(
        self,
        path: Place,
        wait_s: float = 60.0,
        lease_s: float = 60.0,
        on_wait: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.path, self.private, self.output = path, path.parent, path.parent.parent
        self.wait_s, self.lease_s, self.on_wait = wait_s, lease_s, on_wait
        self.epoch = 0
        self.taken_over = ""
        self._mark: Mark | None = None
        self._taken = ""  # the sentence of why the output is another's
        self._renewals = 0
        self._renewed = 0.0  # time.monotonic
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._renewer: threading.Thread | None = None

    def __enter__(self) -> "OutputLock":
        try:
            make_directory(self.private)
            self._acquire()
        except (OSError, StorageError) as error:
            raise LockedError(
                f"cannot lock {self.output}: {error}; see that it is there and may be read and written, "
                "or choose another --output"
            ) from error
        self._renewer = threading.Thread(target=self._keep_renewing, name="skysom-lock", daemon=True)
        self._renewer.start()
        try:
            if isinstance(self.private, Path):
                _wait_at_fence(self.private / FENCE, self.wait_s, self.on_wait)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def guard(self) -> Guard:
        """What the workers of this run ask before they write."""
        assert self._mark is not None, "a lock that is not held guards nothing"
        return Guard(self.private, self.epoch, self._mark.owner.run)

    @property
    def lost(self) -> bool:
        """Whether this run must not write now: another one owns the output, or this one could not renew for a lease."""
        return bool(self._taken) or time.monotonic() - self._renewed > self.lease_s

    def check(self) -> None:
        """FencedError where the lock is `lost`; one that was only not renewed in time is renewed first."""
        if self.lost and not self._taken:
            try:
                self._renew()
            except (OSError, StorageError) as error:
                raise FencedError(
                    f"the lock of {self.output} could not be renewed for {time.monotonic() - self._renewed:.0f} s "
                    f"({error}): this run stops; run the same command again to go on"
                ) from error
        if self._taken:
            raise FencedError(self._taken)

    # --- acquiring --------------------------------------------------------------------------------

    def _acquire(self) -> None:
        deadline = time.monotonic() + self.wait_s + 3 * self.lease_s
        while time.monotonic() < deadline:
            scene = self._look()
            owner = scene.owner
            alive: bool | None = False
            if owner is not None:
                alive = is_alive(owner, mark_of(self.private, scene.epoch))
                if alive is None:
                    alive = self._watch(scene, owner)
                if alive:
                    raise LockedError(
                        f"{self.output} is in use by {owner}; wait for it, stop it, or choose another --output"
                    )
            if alive is False and self._take(scene, owner):
                return
        raise LockedError(f"{self.path} keeps changing hands; see which runs use {self.output}, and try again")

    def _look(self) -> _Scene:
        for _ in range(100):
            text = content(self.path, self.wait_s)
            highest = max(epochs(self.private), default=0)
            mark = content(mark_of(self.private, highest)) if highest else None
            if highest == 0 or mark is not None:
                return _Scene(highest, mark, text)
        raise LockedError(f"the marks in {self.private} keep changing; see which runs use {self.output}")

    def _watch(self, scene: _Scene, owner: Owner) -> bool | None:
        """Whether the owner renews the lock within its lease; None where something else has changed."""
        lease_s = owner.lease_s or self.lease_s
        self.on_wait(
            f"{self.output} was locked by {owner}; waiting up to {lease_s:.0f} s to see whether that run still lives"
        )
        watched_s, last = 0.0, time.monotonic()
        while watched_s < lease_s:
            time.sleep(min(lease_s / 20, 1.0))
            now = self._look()
            if now != scene:
                found = now.owner
                return True if found is not None and _same(found, owner) else None
            # A gap in watching (a store that did not answer, a paused process) is no sign of death.
            watched_s += min(time.monotonic() - last, lease_s / 4)
            last = time.monotonic()
        return False

    def _take(self, scene: _Scene, dead: Owner | None) -> bool:
        """Make the next mark and remove all earlier ones; False where another newcomer came first."""
        epoch = scene.next_epoch
        mark = make_mark(self.private, this_run(epoch, self.lease_s))
        if mark is None:
            return False
        self._mark, self.epoch = mark, epoch
        try:
            existing = epochs(self.private)
            if max(existing, default=0) != epoch:  # what was seen is long past
                remove(mark.where)
                self._mark = None
                mark.close()
                return False
            self._write_renewed(mark.owner, self.wait_s)
            for earlier in existing[:-1]:
                remove(mark_of(self.private, earlier))
        except BaseException:
            self._release()
            raise
        if dead is not None:
            self.taken_over = f"{self.output} was locked by {dead}, which is dead; this run has taken it over"
        return True

    # --- keeping and releasing --------------------------------------------------------------------

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self.lease_s / 4) and not self._taken:
            try:
                self._renew()
            except (OSError, StorageError):
                continue  # tried again; `lost` tells when that has gone on for a lease

    def _renew(self) -> None:
        with self._writing:
            mark = self._mark
            if mark is None or self._ended.is_set():
                return
            deadline_s = self.lease_s / 4
            if not mark.is_there(deadline_s):
                self._taken = (
                    f"another run has taken over {self.output} from this one (epoch {self.epoch}), whose lock was not "
                    f"renewed for {self.lease_s:.0f} s, or whose mark was deleted: this run stops; the other one goes "
                    "on with what is finished"
                )
                return
            self._write_renewed(mark.owner, deadline_s)

    def _write_renewed(self, owner: Owner, deadline_s: float) -> None:
        began = time.monotonic()
        self._renewals += 1
        self._write(owner.dumps(renewals=self._renewals), deadline_s)
        self._renewed = began

    def _write(self, data: bytes, deadline_s: float) -> None:
        if isinstance(self.path, Path):
            write_atomically(self.path, data)
        else:
            patiently(self.path.fs.pipe_file, self.path.path, data, deadline_s=deadline_s)

    def _release(self) -> None:
        self._ended.set()
        mark, deadline_s = self._mark, min(self.lease_s, 10.0)
        if mark is None:
            return
        if self._renewer is not None:
            self._renewer.join(timeout=deadline_s)
        try:
            if mark.is_there(deadline_s):
                self._write(b"", deadline_s)
                mark.release(deadline_s)
        except (OSError, StorageError):
            pass  # left as by a kill: the next run finds this process gone
        finally:
            self._mark = None
            mark.close()


def _same(one: Owner, other: Owner) -> bool:
    return (one.pid, one.host, one.run) == (other.pid, other.host, other.run)


def hold_fence(path: Path) -> IO[str]:
    """Hold ``path`` together with other workers while the returned file is open; names this process in it."""
    file = path.open("a+")
    fcntl.flock(file, fcntl.LOCK_SH)
    file.write(f"{os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _wait_at_fence(path: Path, wait_s: float, on_wait: Callable[[str], None]) -> None:
    """Return when no worker holds ``path``; LockedError after ``wait_s`` seconds."""
    started, told = time.monotonic(), False
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= started + wait_s:
                    file.seek(0)
                    workers = ", ".join(file.read().split("\n")).strip(", ")
                    raise LockedError(
                        f"worker processes of an earlier run still use {path.parent.parent} after {wait_s:.0f} s; "
                        f"stop them and run the same command again (some of: {workers})"
                    ) from None
                if not told and time.monotonic() > started + 1:
                    on_wait(f"waiting up to {wait_s:.0f} s for worker processes that an earlier run left on this host")
                    told = True
                time.sleep(0.05)
        file.truncate(0)
