"""Where the shards of a pass are worked on: in this process, or by Ray actors.

Both yield results as they come and raise PassError when a shard fails after its retries, so a pass
does not know which one it runs on.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from skysom.cluster.errors import PassError
from skysom.cluster.ledger import Shard

Worker = Callable[[Shard], dict[str, Any]]
"""Works on one shard, writes its data durably, and returns counts that fit in JSON."""


@dataclass(frozen=True)
class ShardResult:
    """One finished shard: what it counted, how long it took (s), after how many attempts, and where."""

    shard: Shard
    counts: dict[str, Any]
    seconds: float
    attempts: int
    worker: int


class Executor(Protocol):
    """Runs ``make_worker()`` once a worker and calls it on every shard."""

    def run(self, make_worker: Callable[[], Worker], shards: Sequence[Shard]) -> Iterator[ShardResult]: ...


@dataclass(frozen=True)
class LocalExecutor:
    """One worker in this process, with numerical libraries held to one thread."""

    attempts: int = 3

    def run(self, make_worker: Callable[[], Worker], shards: Sequence[Shard]) -> Iterator[ShardResult]:
        worker = _one_thread(make_worker)
        for shard in shards:
            for attempt in range(1, self.attempts + 1):
                started = time.perf_counter()
                try:
                    counts = _one_thread(worker, shard)
                except Exception as error:
                    if attempt == self.attempts:
                        raise _failed(shard, attempt, error) from error
                    continue
                yield ShardResult(shard, counts, time.perf_counter() - started, attempt, 0)
                break


@dataclass(frozen=True)
class RayExecutor:
    """Ray actors, one a worker, each pinned to one core and one BLAS thread.

    workers may exceed the cores. address: an existing cluster ("auto", "host:port"), or None to start
    Ray on this machine. deadline_s: longest time without any shard finished.
    """

    workers: int
    address: str | None = None
    attempts: int = 3
    deadline_s: float = 3600.0

    def run(self, make_worker: Callable[[], Worker], shards: Sequence[Shard]) -> Iterator[ShardResult]:
        import ray

        start_ray(self.workers, self.address)
        actor_class = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0)(_Actor)
        state = ray.put(make_worker)
        actors = [actor_class.remote(state) for _ in range(min(self.workers, len(shards)))]
        try:
            yield from self._collect(actors, list(shards))
        finally:
            for actor in actors:
                ray.kill(actor)  # type: ignore[arg-type]

    def _collect(self, actors: list[Any], shards: list[Shard]) -> Iterator[ShardResult]:
        import ray

        waiting = [(shard, 1) for shard in reversed(shards)]
        running: dict[Any, tuple[int, Shard, int]] = {}

        def submit(worker: int) -> None:
            if waiting:
                shard, attempt = waiting.pop()
                running[actors[worker].run.remote(shard)] = (worker, shard, attempt)

        for _ in range(2):  # a second shard queued on each actor hides the round trip
            for worker in range(len(actors)):
                submit(worker)
        while running:
            ready, _ = ray.wait(list(running), num_returns=1, timeout=self.deadline_s)
            if not ready:
                busy = sorted(shard for _, shard, _ in running.values())
                raise PassError(
                    f"no shard finished in {self.deadline_s:.0f} s (running: {busy}); "
                    "look at the workers' memory and disk, then run the same command again to resume"
                )
            worker, shard, attempt = running.pop(ready[0])
            try:
                counts, seconds = ray.get(ready[0])
            except Exception as error:
                if attempt >= self.attempts:
                    raise _failed(shard, attempt, error) from error
                waiting.append((shard, attempt + 1))
            else:
                yield ShardResult(shard, counts, seconds, attempt, worker)
            submit(worker)


class _Actor:
    """Holds one worker and times it."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self.make_worker = make_worker
        self.worker: Worker | None = None

    def run(self, shard: Shard) -> tuple[dict[str, Any], float]:
        started = time.perf_counter()
        # Made on first use: an error while making it is then an error of the shard, with its cause.
        if self.worker is None:
            self.worker = _one_thread(self.make_worker)
        counts = _one_thread(self.worker, shard)
        return counts, time.perf_counter() - started


def start_ray(workers: int, address: str | None) -> None:
    """Attach to a Ray cluster, or start a quiet one with ``workers`` slots on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        if address is not None or ray.cluster_resources().get("CPU", 0) >= workers:
            return
        ray.shutdown()
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
    }
    if address is not None:
        ray.init(address=address, **quiet)
        return
    ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=200 * 1024**2, **quiet)


def _one_thread(call: Callable[..., Any], *args: Any) -> Any:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return call(*args)


def _failed(shard: Shard, attempts: int, error: BaseException) -> PassError:
    cause = getattr(error, "cause", None) or error
    return PassError(
        f"rows {shard[0]}..{shard[1]} failed {attempts} times, last with {type(cause).__name__}: {cause}; "
        "what is finished is kept: mend the cause and run the same command again"
    )
