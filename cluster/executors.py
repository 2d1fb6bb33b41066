"""Where the shards of a pass are worked on: the interface, and the executor of this process.

Executors yield results as they come and raise PassError when a shard fails after its retries, so a
pass does not know which one it runs on. `ray_executor` has the other one.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from skysom.cluster.errors import PassError
from skysom.cluster.ledger import Shard

Worker = Callable[[Shard], dict[str, Any]]
"""Works on one shard, has written all of its data when it returns, and returns counts that fit in JSON."""


@dataclass(frozen=True)
class ShardResult:
    """One finished shard: what it counted, how long it took (s), after how many attempts, and where."""

    shard: Shard
    counts: dict[str, Any]
    seconds: float
    attempts: int
    worker: int


class Executor(Protocol):
    """Where workers live."""

    def run(self, make_worker: Callable[[], Worker], shards: Sequence[Shard]) -> Iterator[ShardResult]:
        """Call ``make_worker()`` once a worker, and a worker on every shard; yield results as they come.

        A shard that raises or whose worker dies is tried again; PassError (its cause chained) when the
        attempts are spent or a deadline passes.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """One worker in this process, with numerical libraries held to one thread."""

    attempts: int = 3

    def run(self, make_worker: Callable[[], Worker], shards: Sequence[Shard]) -> Iterator[ShardResult]:
        """See Executor.run; shards finish in the order given."""
        worker = one_thread(make_worker)
        for shard in shards:
            for attempt in range(1, self.attempts + 1):
                started = time.perf_counter()
                try:
                    counts = one_thread(worker, shard)
                except Exception as error:
                    if attempt == self.attempts:
                        raise shard_failed(shard, attempt, f"{type(error).__name__}: {error}") from error
                    continue
                yield ShardResult(shard, counts, time.perf_counter() - started, attempt, 0)
                break


def one_thread(call: Callable[..., Any], *args: Any) -> Any:
    """``call(*args)`` with BLAS and OpenMP held to one thread: a worker has one core."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return call(*args)


def shard_failed(shard: Shard, attempts: int, cause: str) -> PassError:
    """The error of a shard whose attempts are spent."""
    return PassError(
        f"rows {shard[0]}..{shard[1]} failed {attempts} times, last with {cause}; "
        "what is finished is kept: mend the cause and run the same command again"
    )
