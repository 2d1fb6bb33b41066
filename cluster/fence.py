"""The fence of a run: what its workers ask before they write, wherever they are.

A worker may outlive its run by any time (its driver was killed, its node was out of reach) and another run
may own the output by then. Its guard then raises, and it writes nothing any more.
"""

import time
from dataclasses import dataclass

from skysom.cluster.errors import FencedError
from skysom.cluster.marks import Owner, content, epochs, mark_of
from skysom.storage.errors import StorageError
from skysom.storage.place import Place

_CHECKED: dict[tuple[str, int, str], float] = {}
"""Of each guard of this process: when (time.monotonic) the answer it last got was asked for."""


@dataclass(frozen=True)
class Guard:
    """Call it before every commit: it returns while the run of ``epoch`` owns the output.

    private: the directory of the lock; run: the run's own name where known (OutputLock.guard gives it), so
    that a directory which was removed and made again is another one; every_s: an answer is good for as many
    seconds in a process (0: always ask); deadline_s: how long a store may stay silent.

    Raises FencedError where another run has taken the output over, the lock was released, or the store does
    not tell until the deadline. Picklable.
    """

    private: Place
    epoch: int
    run: str = ""
    every_s: float = 1.0
    deadline_s: float = 120.0

    def __call__(self) -> None:
        key = (str(self.private), self.epoch, self.run)
        asked = time.monotonic()
        if key in _CHECKED and asked - _CHECKED[key] < self.every_s:
            return
        try:
            owner = Owner.parse(content(mark_of(self.private, self.epoch), self.deadline_s))
        except (OSError, StorageError) as error:
            raise FencedError(
                f"whether this run (epoch {self.epoch}) still owns {self.private.parent} cannot be read ({error}): "
                "this worker stops; run the same command again to go on"
            ) from error
        if owner is None or owner.released or self.run not in ("", owner.run):
            raise FencedError(self._why(owner))
        _CHECKED[key] = asked

    def _why(self, owner: Owner | None) -> str:
        try:
            later = [epoch for epoch in epochs(self.private) if epoch > self.epoch]
        except (OSError, StorageError):
            later = []
        what = f"this run (epoch {self.epoch}) does not own {self.private.parent} any more: its mark is gone"
        if later:
            what = f"another run (epoch {later[-1]}, this one is {self.epoch}) has taken over {self.private.parent}"
        elif owner is not None and owner.released and self.run in ("", owner.run):
            what = f"this run (epoch {self.epoch}) has ended and released {self.private.parent}"
        elif owner is not None:
            what = f"another run (also of epoch {self.epoch}) has made {self.private.parent} anew"
        return f"{what}: this worker stops; what it had not finished is done by the run that owns the output"
