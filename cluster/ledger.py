"""What is done: one line a finished shard, written after the shard's worker has returned.

The records are append-only JSON lines (see `skysom.storage.jsonlines`). Against a kill at any moment all of
it is safe: a torn last line is dropped and its shard done again, which is harmless because a shard is
idempotent. Against a loss of power the ledger itself is safe (it is fsynced, and so is the directory of a
new one); a shard's data are as safe as its worker made them, so where they were not fsynced, redo the stage
that was running. In an object store a record is there when its PUT has returned.
"""

import json
from collections.abc import Mapping
from typing import Any

from skysom.cluster.errors import LedgerError
from skysom.storage.jsonlines import JsonLines
from skysom.storage.place import Place

Shard = tuple[int, int]
"""Row range [start, stop)."""


class Ledger:
    """The completion records of one output; the driver is its only writer.

    Raises LedgerError for a damaged line before the last.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self._lines = JsonLines(path, sync=True)
        self._records = _parsed(path, self._lines.read())

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

    def shards(self, stage: str) -> set[Shard]:
        """Finished shards of ``stage``, whatever its configuration."""
        return {(r["start"], r["stop"]) for r in self._records if r["stage"] == stage}

    def record(self, stage: str, config: str, shard: Shard, counts: Mapping[str, Any], epoch: int = 0) -> None:
        """Append that ``shard`` is done; the line is on the disk when this returns, in an object store after `flush`.

        epoch: which acquisition of the output recorded it (0 where epochs are not counted).
        """
        line = {"stage": stage, "config": config, "start": shard[0], "stop": shard[1], "counts": dict(counts)}
        if epoch:
            line["epoch"] = epoch
        self._lines.append(line, soon=True)
        self._records.append(line)

    def flush(self) -> None:
        """Send what an object store has not been sent yet: records are kept back for seconds, for fewer requests."""
        self._lines.flush()

    def drop(self, *stages: str) -> None:
        """Forget what was done in ``stages``, atomically; forgotten on the disk, too, when this returns."""
        kept = [record for record in self._records if record["stage"] not in stages]
        self._lines.replace(kept)
        self._records = kept


def _parsed(path: Place, lines: list[bytes]) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["stage"], record["config"], record["start"], record["stop"], record["counts"]
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(f"{path}, line {number}: not a ledger record ({error}); restore or delete it") from error
        records.append(record)
    return records
