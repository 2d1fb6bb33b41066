"""Where the shards of a pass are worked on: the interface, and the executor of this process.

Executors yield results as they come and raise PassError when a shard fails after its retries, so a
pass does not know which one it runs on. `ray_executor` has the other one.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from skysom.cluster.backlog import Backlog, Job
from skysom.cluster.ledger import Shard
from skysom.cluster.pipeline import SHARDS_IN_FLIGHT, Guard, Pipeline, ShardWorker

ATTEMPTS = 3
"""Times a shard is tried."""
PAUSES_S = (0.0, 1.0, 5.0)
"""Seconds before each of them where the store failed."""


@dataclass(frozen=True)
class ShardResult:
    """One finished shard: what it counted, seconds of its steps, after how many attempts, and where.

    worker: its number; memory_bytes: peak resident of its process so far; device: "cpu", or the GPUs Ray
    assigned; workers: how many were at work when it came.
    """

    shard: Shard
    counts: dict[str, Any]
    read_s: float
    compute_s: float
    write_s: float
    attempts: int = 1
    worker: int = 0
    host: str = ""
    memory_bytes: int = 0
    device: str = "cpu"
    workers: int = 1

    @property
    def seconds(self) -> float:
        """All steps together; those of other shards ran meanwhile."""
        return self.read_s + self.compute_s + self.write_s


class Executor(Protocol):
    """Where workers live."""

    def run(
        self, make_worker: Callable[[], ShardWorker], shards: Sequence[Shard], guard: Guard | None = None
    ) -> Iterator[ShardResult]:
        """Call ``make_worker()`` once a worker, and put every shard through a worker; yield results as they come.

        A shard that raises or whose worker dies is tried again; PassError (its cause chained) when the
        attempts are spent, the disk is full or a deadline passes. guard: called in the worker's process
        before a shard is read and right before it is written; its FencedError ends the pass.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """One worker in this process, with numerical libraries held to one thread."""

    attempts: int = ATTEMPTS
    pauses_s: tuple[float, ...] = PAUSES_S

    def run(
        self, make_worker: Callable[[], ShardWorker], shards: Sequence[Shard], guard: Guard | None = None
    ) -> Iterator[ShardResult]:
        """See Executor.run; shards finish in the order given, but for those tried again."""
        from threadpoolctl import threadpool_limits

        host, backlog = socket.gethostname(), Backlog(shards, self.attempts, self.pauses_s)
        running: dict[Future, Job] = {}
        with threadpool_limits(1), closing(Pipeline(make_worker, guard)) as pipeline:
            while backlog or running:
                while len(running) < SHARDS_IN_FLIGHT and (job := backlog.take(idle=not running)) is not None:
                    running[pipeline.submit(job.shard)] = job
                pause_s = backlog.wait_s()
                if not running:
                    time.sleep(pause_s or 0)
                    continue
                done, _ = wait(running, pause_s, FIRST_COMPLETED)
                for future in [future for future in running if future in done]:
                    job = running.pop(future)
                    try:
                        work = future.result()
                    except Exception as error:
                        backlog.failed(job, error, f"{type(error).__name__}: {error}")
                    else:
                        yield ShardResult(
                            job.shard, work.counts, work.read_s, work.compute_s, work.write_s,
                            attempts=job.begun, host=host, memory_bytes=work.memory_bytes,
                        )  # fmt: skip


def one_thread(call: Callable[..., Any], *args: Any) -> Any:
    """``call(*args)`` with BLAS and OpenMP held to one thread: a worker has one core."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return call(*args)
