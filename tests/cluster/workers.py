"""Workers for the tests of the pass: real ones, that write files and fail on request."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileWorker:
    """Writes a file a shard, and appends to a log of attempts; fails or dies where asked to.

    fail: number of attempts of every third shard that raise; die: kill -9 the process on the first
    attempt at this shard, or on every one (always). beats: how often a shard writes ``beat`` to the file
    "beats", every 20 ms.
    """

    folder: Path
    fail: int = 0
    die: int | None = None
    always: bool = False
    beat: str = "beat"
    beats: int = 0

    def __call__(self, shard):
        attempts = self.folder / f"attempts-{shard[0]}"
        with attempts.open("a") as file:
            file.write("x")
        count = len(attempts.read_text())
        if self.die == shard[0] and (self.always or count == 1):
            time.sleep(0.3)  # until a second shard is queued behind this one
            os.kill(os.getpid(), 9)
        if shard[0] % 3 == 0 and count <= self.fail:
            raise OSError(f"attempt {count} fails")
        for _ in range(self.beats):
            with (self.folder / "beats").open("a") as file:
                file.write(self.beat + "\n")
            time.sleep(0.02)
        (self.folder / f"shard-{shard[0]}").write_text(str(sum(range(*shard))))
        return {"rows": shard[1] - shard[0]}


@dataclass(frozen=True)
class Make:
    worker: FileWorker

    def __call__(self):
        return self.worker
