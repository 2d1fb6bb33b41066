"""The pass: the one way work is spread over the shards of a survey."""

import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skysom.cluster.errors import PassError
from skysom.cluster.executors import Executor, LocalExecutor, ShardResult, Worker
from skysom.cluster.ledger import Ledger, Shard
from skysom.cluster.lock import FENCE
from skysom.cluster.ray_executor import RayExecutor

SMALL_SHARDS = 8
"""Fewer shards than this run in process: starting Ray takes longer than they do."""

ERROR_LOG = "errors.log"
"""Beside the ledger: the tracebacks behind PassErrors, the latest last."""

ERROR_LOG_BYTES = 200_000
"""Older tracebacks are cut off beyond this."""


@dataclass(frozen=True)
class Runtime:
    """How a pass runs; nothing here changes a result.

    workers: processes; executor: "auto" (Ray from two workers and SMALL_SHARDS shards), "local" or
    "ray"; ray_address: an existing cluster; deadline_s: longest wait for any shard.
    """

    workers: int = 1
    executor: Literal["auto", "local", "ray"] = "auto"
    ray_address: str | None = None
    deadline_s: float = 3600.0

    def executor_for(self, shards: int, fence: Path | None = None) -> Executor:
        """The executor for a pass over ``shards`` shards; its worker processes hold ``fence`` (see OutputLock)."""
        small = self.workers <= 1 or shards < SMALL_SHARDS
        wants_ray = self.executor == "ray" or self.ray_address is not None
        if self.executor == "local" or (small and not wants_ray):
            return LocalExecutor()
        return RayExecutor(max(self.workers, 1), self.ray_address, deadline_s=self.deadline_s, fence=fence)


@dataclass(frozen=True)
class PassEvent:
    """A shard has finished, or (result None) the pass begins with what earlier runs left done.

    images, total: images done so far and in all, in this pass; seconds since its start.
    """

    stage: str
    result: ShardResult | None
    images: int
    total: int
    seconds: float


def run_pass(
    stage: str,
    shards: Sequence[Shard],
    make_worker: Callable[[], Worker],
    *,
    ledger: Ledger,
    config: str,
    runtime: Runtime,
    on_event: Callable[[PassEvent], None] = lambda event: None,
) -> list[dict]:
    """Apply a worker to every shard that is not done, and record each when its worker has returned.

    make_worker must be picklable; the worker it makes writes whole shards and returns counts. Returns
    the counts of all shards in order, those of earlier runs included. A kill at any moment loses only
    shards that were not recorded; see `ledger` for a loss of power. Raises PassError, naming the file
    with the traceback, when a shard fails three times, and LedgerError for a ledger of another
    configuration. The directory of the ledger also takes the fence and the error log.
    """
    wanted = set(shards)
    counts = {shard: done for shard, done in ledger.done(stage, config).items() if shard in wanted}
    missing = [shard for shard in shards if shard not in counts]
    total = sum(stop - start for start, stop in shards)
    images = total - sum(stop - start for start, stop in missing)
    started = time.perf_counter()
    on_event(PassEvent(stage, None, images, total, 0.0))
    if not missing:
        return [counts[shard] for shard in shards]
    folder = ledger.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for result in runtime.executor_for(len(missing), folder / FENCE).run(make_worker, missing):
            ledger.record(stage, config, result.shard, result.counts)
            counts[result.shard] = result.counts
            images += result.shard[1] - result.shard[0]
            on_event(PassEvent(stage, result, images, total, time.perf_counter() - started))
    except PassError as error:
        if error.__cause__ is None or not _log_traceback(folder / ERROR_LOG, stage, error.__cause__):
            raise
        raise PassError(f"{error} (traceback in {folder / ERROR_LOG})") from error.__cause__
    return [counts[shard] for shard in shards]


def _log_traceback(path: Path, stage: str, cause: BaseException) -> bool:
    """Append the traceback of ``cause`` to a file of bounded size; False where that is impossible."""
    text = re.sub(r"\x1b\[\d+m", "", "".join(traceback.format_exception(cause)))  # Ray colours its frames
    entry = f"{time.strftime('%Y-%m-%d %H:%M:%S')} stage {stage}\n{text}\n".encode()
    try:
        earlier = path.read_bytes() if path.exists() else b""
        path.write_bytes((earlier + entry)[-ERROR_LOG_BYTES:])
    except OSError:  # a full disk is a likely cause itself
        return False
    return True
