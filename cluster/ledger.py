"""What is done: one line a finished shard, written after the shard's worker has returned.

The file is append-only JSON lines. Against a kill at any moment all of it is safe: a torn last line is
dropped and its shard done again, which is harmless because a shard is idempotent. Against a loss of
power the ledger itself is safe (it is fsynced, and so is the directory of a new one); a shard's data
are as safe as its worker made them, so where they were not fsynced, redo the stage that was running.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skysom.cluster.errors import LedgerError

Shard = tuple[int, int]
"""Row range [start, stop)."""


class Ledger:
    """The completion records of one output; the driver is its only writer. Opening it cuts a torn last line.

    Raises LedgerError for a damaged line before the last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = _read_and_repair(path)

    def done(self, stage: str, config: str) -> dict[Shard, dict[str, Any]]:
        """Finished shards of ``stage`` and what they counted.

        Raises LedgerError where the stage was recorded with another configuration hash.
        """
        found = {}
        for record in self._records:
            if record["stage"] != stage:
                continue
            if record["config"] != config:
                raise LedgerError(
                    f"{self.path}: stage {stage} was run with configuration {record['config']}, this run has "
                    f"{config}; choose another --output or discard the stage with `--redo`"
                )
            found[(record["start"], record["stop"])] = record["counts"]
        return found

    def record(self, stage: str, config: str, shard: Shard, counts: Mapping[str, Any]) -> None:
        """Append that ``shard`` is done; the line is on the disk when this returns."""
        line = {"stage": stage, "config": config, "start": shard[0], "stop": shard[1], "counts": dict(counts)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(self.path.parent)
        self._records.append(line)

    def drop(self, *stages: str) -> None:
        """Forget what was done in ``stages``, atomically; forgotten on the disk, too, when this returns."""
        self._records = [record for record in self._records if record["stage"] not in stages]
        beside = self.path.with_name(self.path.name + ".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in self._records)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)
        sync_directory(self.path.parent)


def sync_directory(path: Path) -> None:
    """Put the names in directory ``path`` on the disk: a file made or renamed there outlasts a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_and_repair(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    data = path.read_bytes()
    # A line is whole when its newline is there; the next record must not continue a torn one.
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
            record["stage"], record["config"], record["start"], record["stop"], record["counts"]
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(f"{path}, line {number}: not a ledger record ({error}); restore or delete it") from error
        records.append(record)
    return records
