"""The pass: the one way work is spread over the shards of a survey."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from skysom.cluster.executors import Executor, LocalExecutor, RayExecutor, ShardResult, Worker
from skysom.cluster.ledger import Ledger, Shard

SMALL_SHARDS = 8
"""Fewer shards than this run in process: starting Ray takes longer than they do."""


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

    def executor_for(self, shards: int) -> Executor:
        small = self.workers <= 1 or shards < SMALL_SHARDS
        wants_ray = self.executor == "ray" or self.ray_address is not None
        if self.executor == "local" or (small and not wants_ray):
            return LocalExecutor()
        return RayExecutor(max(self.workers, 1), self.ray_address, deadline_s=self.deadline_s)


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
    """Apply a worker to every shard that is not done, and record each when its data is durable.

    make_worker must be picklable; the worker it makes writes whole shards and returns counts. Returns
    the counts of all shards in order, those of earlier runs included. Raises PassError when a shard
    fails three times and LedgerError for a ledger of another configuration.
    """
    counts = {shard: done for shard, done in ledger.done(stage, config).items() if shard in set(shards)}
    missing = [shard for shard in shards if shard not in counts]
    total = sum(stop - start for start, stop in shards)
    images = total - sum(stop - start for start, stop in missing)
    started = time.perf_counter()
    on_event(PassEvent(stage, None, images, total, 0.0))
    if missing:
        for result in runtime.executor_for(len(missing)).run(make_worker, missing):
            ledger.record(stage, config, result.shard, result.counts)
            counts[result.shard] = result.counts
            images += result.shard[1] - result.shard[0]
            on_event(PassEvent(stage, result, images, total, time.perf_counter() - started))
    return [counts[shard] for shard in shards]
