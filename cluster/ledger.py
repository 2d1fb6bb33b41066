"""What is done: one line a finished shard, written only after the shard's data is durable.

The file is append-only JSON lines. A line torn by a kill is ignored: its shard is done again, which
is harmless because a shard is idempotent.
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
    """The completion records of one output; the driver is its only writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = _read(path)
        _repair_tail(path)

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
        """Append that ``shard`` is done, durably."""
        line = {"stage": stage, "config": config, "start": shard[0], "stop": shard[1], "counts": dict(counts)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._records.append(line)

    def drop(self, *stages: str) -> None:
        """Forget what was done in ``stages``, atomically."""
        self._records = [record for record in self._records if record["stage"] not in stages]
        beside = self.path.with_name(self.path.name + ".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in self._records)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def stages(self) -> set[str]:
        return {record["stage"] for record in self._records}


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
            record["stage"], record["config"], record["start"], record["stop"], record["counts"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # torn by a kill: no newline was written
            raise LedgerError(f"{path}, line {number}: not a ledger record ({error}); restore or delete it") from error
        records.append(record)
    return records


def _repair_tail(path: Path) -> None:
    """Cut a torn last line, so that the next record does not continue it."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
