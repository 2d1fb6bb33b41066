"""Workers for the tests of the pass: real ones, that write files and fail on request."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from skysom.cluster.errors import FencedError


@dataclass(frozen=True)
class FileWorker:
    """Writes a file a shard, and appends to a log of attempts; fails or dies where asked to.

    fail: number of attempts of every third shard that raise; die: kill -9 the process on the first
    attempt at this shard, or on every one (always). beats: how often a shard writes ``beat`` to the file
    "beats", every 20 ms. slow: seconds each shard takes. error: what failing raises. full: the shard whose
    data go to a disk that is full. gate: from this shard on (or this one only),
    a shard is computed when the file "go" is there.
    """

    folder: Path
    fail: int = 0
    die: int | None = None
    always: bool = False
    beat: str = "beat"
    beats: int = 0
    slow: float = 0.0
    error: type = OSError
    full: int | None = None
    gate: int | None = None
    only: bool = False

    def read(self, shard):
        self.note("read", shard)
        return list(range(*shard))

    def compute(self, shard, data):
        attempts = self.folder / f"attempts-{shard[0]}"
        with attempts.open("a") as file:
            file.write("x")
        count = len(attempts.read_text())
        if self.die == shard[0] and (self.always or count == 1):
            time.sleep(0.3)  # until more shards are in flight behind this one
            os.kill(os.getpid(), 9)
        if shard[0] % 3 == 0 and count <= self.fail:
            raise self.error(f"attempt {count} fails")
        for _ in range(self.beats):
            with (self.folder / "beats").open("a") as file:
                file.write(self.beat + "\n")
            time.sleep(0.02)
        time.sleep(self.slow)
        deadline = time.monotonic() + 120
        while self.gated(shard) and not (self.folder / "go").exists():
            assert time.monotonic() < deadline, "the gate was not opened"
            time.sleep(0.02)
        return sum(data)

    def gated(self, shard):
        return self.gate is not None and (shard[0] == self.gate if self.only else shard[0] >= self.gate)

    def write(self, shard, result):
        self.note("write", shard)
        if self.full == shard[0]:
            with Path("/dev/full").open("w") as file:
                file.write("what does not fit")
        (self.folder / f"shard-{shard[0]}").write_text(str(result))
        return {"rows": shard[1] - shard[0]}

    def note(self, step, shard):
        """Append to a log of steps that were begun, a line each."""
        with (self.folder / "steps").open("a") as file:
            file.write(f"{step} {shard[0]} {os.getpid()} {time.monotonic()}\n")


@dataclass(frozen=True)
class Make:
    worker: FileWorker

    def __call__(self):
        return self.worker


@dataclass(frozen=True)
class FileGuard:
    """Raises once ``folder/taken`` is there."""

    folder: Path
    epoch: int = 3

    def __call__(self):
        if (self.folder / "taken").exists():
            raise FencedError("the output was taken over by another run")


def steps(folder: Path) -> list[tuple[str, int, int, float]]:
    """What `FileWorker.note` has written."""
    lines = (folder / "steps").read_text().splitlines() if (folder / "steps").exists() else []
    return [(step, int(first), int(pid), float(at)) for step, first, pid, at in map(str.split, lines)]
