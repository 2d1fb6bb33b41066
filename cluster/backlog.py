"""The shards a pass has still to hand out: which next, which only alone, which after a pause, and when to give up."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from skysom.cluster.errors import FencedError, PassError
from skysom.cluster.ledger import Shard


@dataclass
class Job:
    """A shard on its way: how often a worker was given it, and how many of these times count against it.

    alone: a worker died while it held this shard among others, so it is tried by itself. ready: time
    (monotonic, s) before which it is not tried again.
    """

    shard: Shard
    begun: int = 0
    charged: int = 0
    alone: bool = False
    ready: float = 0.0


class Backlog:
    """Jobs to hand out, in the order given; those to be tried again come first.

    attempts: tries that are charged before the pass stops. pauses_s: before each of them (s), where the
    last try failed for the store (OSError); the last pause holds for all further tries.
    """

    def __init__(self, shards: Sequence[Shard], attempts: int, pauses_s: Sequence[float]) -> None:
        self._fresh = deque(Job(shard) for shard in shards)
        self._again: list[Job] = []
        self._attempts, self._pauses = attempts, tuple(pauses_s) or (0.0,)

    def __len__(self) -> int:
        return len(self._fresh) + len(self._again)

    def take(self, *, idle: bool) -> Job | None:
        """The next job for a worker (``idle``: it holds none), or None where none may begin now."""
        now = time.monotonic()
        job = next((job for job in self._again if job.ready <= now and (idle or not job.alone)), None)
        if job is not None:
            self._again.remove(job)
        elif self._fresh:
            job = self._fresh.popleft()
        else:
            return None
        job.begun += 1
        return job

    def wait_s(self) -> float | None:
        """Seconds until the next pause is over; None where nothing pauses."""
        now = time.monotonic()
        return min((job.ready - now for job in self._again if job.ready > now), default=None)

    def put_back(self, job: Job, *, alone: bool = False) -> None:
        """To be tried again without a charge; ``alone`` as it may be what killed its worker."""
        job.alone |= alone
        self._again.append(job)

    def failed(self, job: Job, error: BaseException, reason: str, cause: BaseException | None = None) -> None:
        """Charge the job with ``error`` and keep it for another try.

        Raises PassError with ``reason``, chained to ``cause`` (default the error), when its tries are spent;
        FencedError and PassError of a worker are not worth another try and are raised at once.
        """
        if isinstance(error, FencedError | PassError):
            raise error from (cause or error.__cause__)
        job.charged += 1
        if job.charged >= self._attempts:
            first, last = job.shard
            raise PassError(
                f"rows {first}..{last} failed {job.charged} times, last with {reason}; "
                "what is finished is kept: mend the cause and run the same command again"
            ) from (cause or error)
        if isinstance(error, OSError):
            job.ready = time.monotonic() + self._pauses[min(job.charged, len(self._pauses) - 1)]
        self._again.append(job)
