"""A run in a process of its own, for tests that kill it or read what it prints.

driver.py FOLDER EXECUTOR BEATS [DIE]: a pass of FileWorkers over FOLDER under the output lock. Each shard beats
the name of the executor into FOLDER/beats. DIE: the shard at whose first attempt the worker dies.
"""

import sys
from pathlib import Path

import workers  # beside this script, where Ray's workers find it, too

from skysom.cluster.ledger import Ledger
from skysom.cluster.lock import OutputLock
from skysom.cluster.shards import Runtime, run_pass


def main(folder: Path, executor: str, beats: int, die: int | None = None) -> None:
    worker = workers.FileWorker(folder, die=die, beat=executor, beats=beats)
    shards = [(first, first + 10) for first in range(0, 60, 10)]
    private = folder / ".skysom"
    with OutputLock(private / "lock"):
        ledger = Ledger(private / "ledger.jsonl")
        run_pass("x", shards, workers.Make(worker), ledger=ledger, config="c", runtime=Runtime(2, executor))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
