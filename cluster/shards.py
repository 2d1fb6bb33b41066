"""The pass: the one way work is spread over the shards of a survey."""

import os
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skysom.cluster.errors import FencedError, PassError
from skysom.cluster.executors import PAUSES_S, Executor, LocalExecutor, ShardResult
from skysom.cluster.ledger import Ledger, Shard
from skysom.cluster.lock import FENCE
from skysom.cluster.pipeline import Guard, ShardWorker
from skysom.cluster.ray_executor import RayExecutor, local_cores, start_ray
from skysom.storage.errors import StorageError
from skysom.storage.place import Place, exists, make_directory, read_bytes, write_atomically

SMALL_SHARDS = 8
"""Fewer shards than this run in process: starting Ray takes longer than they do."""

ERROR_LOG = "errors.log"
"""Beside the ledger: the tracebacks behind PassErrors, the latest last."""

ERROR_LOG_BYTES = 200_000
"""Older tracebacks are cut off beyond this."""


@dataclass(frozen=True)
class Runtime:
    """How a pass runs; nothing here changes a result.

    workers: processes; None for as many as the cluster (or this machine) has room for, whatever joins or
    leaves it meanwhile. executor: "auto" (Ray from two workers and SMALL_SHARDS shards), "local" or
    "ray"; ray_address: an existing cluster, by default that of the environment variable RAY_ADDRESS;
    deadline_s: longest wait for any shard; gpus_per_worker: GPUs, or the share of one, that Ray reserves for
    each worker; pauses_s: before each try of a shard (s) where the store failed; dask: what evaluates
    expressions on the catalogue, "threads", "ray" or "tcp://host:port" (see `tables.dask_scheduler`).
    """

    workers: int | None = 1
    executor: Literal["auto", "local", "ray"] = "auto"
    ray_address: str | None = None
    deadline_s: float = 3600.0
    gpus_per_worker: float = 0
    pauses_s: tuple[float, ...] = PAUSES_S
    dask: str = "threads"

    @property
    def address(self) -> str | None:
        """The Ray cluster to attach to; None where Ray is started here or not used."""
        return None if self.executor == "local" else self.ray_address or os.environ.get("RAY_ADDRESS") or None

    @property
    def workers_here(self) -> int:
        """Most workers there can be on this machine, for what they need of its memory."""
        if self.executor == "local":
            return 1
        if self.workers is None or self.address is not None:
            return min(self.workers or local_cores(), local_cores())
        return max(self.workers, 1)

    def dask_ready(self) -> str:
        """The name in ``dask``; where that is "ray", this process is attached to it, or it is started."""
        if self.dask == "ray":
            start_ray(self.workers, self.address)
        return self.dask

    def executor_for(self, shards: int, fence: Path | None = None) -> Executor:
        """The executor for a pass over ``shards`` shards; worker processes of this machine hold ``fence``.

        See OutputLock for the fence. PassError where GPUs are asked for without Ray.
        """
        if self.executor == "local":
            if self.gpus_per_worker:
                raise PassError(
                    f"{self.gpus_per_worker:g} GPUs a worker are placed by Ray, and the executor is 'local'; "
                    "use --executor ray, or leave the GPUs out"
                )
            return LocalExecutor(pauses_s=self.pauses_s)
        small = (self.workers or local_cores()) <= 1 or shards < SMALL_SHARDS
        wants_ray = self.executor == "ray" or self.address is not None or self.gpus_per_worker > 0
        if small and not wants_ray:
            return LocalExecutor(pauses_s=self.pauses_s)
        return RayExecutor(
            self.workers,
            self.address,
            deadline_s=self.deadline_s,
            fence=fence if self.address is None else None,
            gpus_per_worker=self.gpus_per_worker,
            pauses_s=self.pauses_s,
        )


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
    make_worker: Callable[[], ShardWorker],
    *,
    ledger: Ledger,
    config: str,
    runtime: Runtime,
    guard: Guard | None = None,
    on_event: Callable[[PassEvent], None] = lambda event: None,
) -> list[dict]:
    """Put every shard that is not done through a worker, and record each when it is written.

    make_worker must be picklable; see ShardWorker for the worker it makes, and `pipeline` for the shards a
    worker holds at once. guard (picklable) is called before a shard is read, right before it is written and
    before it is recorded. Returns the counts of all shards in order, those of earlier runs included. A kill
    at any moment loses only shards that were not recorded; see `ledger` for a loss of power.

    Raises PassError, naming the file with the traceback, when a shard fails three times or the disk is full;
    LedgerError for a ledger of another configuration; FencedError (the guard's) when another run has taken
    the output over. The directory of the ledger also takes the fence and the error log.
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
    folder, epoch = ledger.path.parent, getattr(guard, "epoch", 0)
    make_directory(folder)
    executor = runtime.executor_for(len(missing), folder / FENCE if isinstance(folder, Path) else None)
    try:
        for result in executor.run(make_worker, missing, guard):
            if guard is not None:
                guard()
            ledger.record(stage, config, result.shard, result.counts, epoch)
            counts[result.shard] = result.counts
            images += result.shard[1] - result.shard[0]
            on_event(PassEvent(stage, result, images, total, time.perf_counter() - started))
        _flush(ledger, guard)
    except FencedError:
        raise
    except PassError as error:
        _flush(ledger, guard)
        if error.__cause__ is None or not _log_traceback(folder / ERROR_LOG, stage, error.__cause__):
            raise
        raise PassError(f"{error} (traceback in {folder / ERROR_LOG})") from error.__cause__
    return [counts[shard] for shard in shards]


def _flush(ledger: Ledger, guard: Guard | None) -> None:
    """Send the last records, unless another run has taken the output over: they would be among its own."""
    if guard is not None:
        guard()
    ledger.flush()


def _log_traceback(place: Place, stage: str, cause: BaseException) -> bool:
    """Append the traceback of ``cause`` to a file of bounded size; False where that is impossible."""
    text = re.sub(r"\x1b\[\d+m", "", "".join(traceback.format_exception(cause)))  # Ray colours its frames
    entry = f"{time.strftime('%Y-%m-%d %H:%M:%S')} stage {stage}\n{text}\n".encode()
    try:
        earlier = read_bytes(place) if exists(place) else b""
        write_atomically(place, (earlier + entry)[-ERROR_LOG_BYTES:])
    except (OSError, StorageError):  # a full disk or a store out of reach is a likely cause itself
        return False
    return True
