"""Shards on Ray actors: shards go only to actors that have started, and a dead actor is replaced.

Replacing is done here rather than by Ray (max_restarts), which charges every call queued on a dead
actor; an actor works on its shards in order, so only the first of them can have been running.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skysom.cluster.errors import PassError
from skysom.cluster.executors import ShardResult, Worker, one_thread, shard_failed
from skysom.cluster.ledger import Shard
from skysom.cluster.lock import hold_fence


@dataclass(frozen=True)
class RayExecutor:
    """Ray actors, one a worker, each pinned to one core and one BLAS thread.

    workers may exceed the cores; those an existing cluster has no free CPU for join when it has.
    address: an existing cluster ("auto", "host:port"), or None to start Ray on this machine.
    deadline_s: longest time without any shard finished; start_deadline_s: longest time without any
    worker. fence: file each actor holds while it lives (see OutputLock).
    """

    workers: int
    address: str | None = None
    attempts: int = 3
    deadline_s: float = 3600.0
    start_deadline_s: float = 300.0
    fence: Path | None = None

    def run(self, make_worker: Callable[[], Worker], shards: Sequence[Shard]) -> Iterator[ShardResult]:
        """See Executor.run; make_worker must be picklable, shards finish in any order."""
        start_ray(self.workers, self.address)
        crew = _Crew(self, make_worker, shards)
        try:
            yield from crew.results()
        finally:
            crew.dismiss()


class _Actor:
    """Holds one worker and times it."""

    def __init__(self, state: list[Any], fence: str | None) -> None:
        self.state = state
        self.worker: Worker | None = None
        # Held until this process dies. No shard is sent before the ping has returned, so whoever finds
        # the fence free while owning the output knows that no process of a dead run writes any more.
        self.fence = hold_fence(Path(fence)) if fence is not None else None

    def ping(self) -> None:
        """Returns when the actor has started."""

    def run(self, shard: Shard) -> tuple[dict[str, Any], float]:
        import ray

        started = time.perf_counter()
        # Made on first use: an error while making it is then an error of the shard, with its cause.
        if self.worker is None:
            self.worker = one_thread(ray.get(self.state[0]))
        counts = one_thread(self.worker, shard)
        return counts, time.perf_counter() - started


@dataclass
class _Seat:
    """One actor: ``ping`` until it has started, then its shards (reference, shard, attempt) in order."""

    number: int
    actor: Any
    ping: Any
    tasks: deque[tuple[Any, Shard, int]] = field(default_factory=deque)

    @property
    def awaited(self) -> Any:
        """What is next to come from this actor; None while it is idle."""
        if self.ping is not None:
            return self.ping
        return self.tasks[0][0] if self.tasks else None


class _Crew:
    """The actors of one pass and the shards that are left."""

    def __init__(self, limits: RayExecutor, make_worker: Callable[[], Worker], shards: Sequence[Shard]) -> None:
        import ray

        self.limits = limits
        self.todo = deque((shard, 1) for shard in shards)
        self.failed_starts = 0
        self._actor_class: Any = ray.remote(num_cpus=1)(_Actor)
        self._fence = str(limits.fence.resolve()) if limits.fence is not None else None
        # In a list Ray hands the reference itself to the actor, which reads it within its first shard.
        self._state = [ray.put(make_worker)]
        self.seats = [self._hire(number) for number in range(min(limits.workers, len(shards)))]

    def results(self) -> Iterator[ShardResult]:
        while self.todo or any(seat.tasks for seat in self.seats):
            self._hand_out()
            seat = self._next()
            if seat.ping is not None:
                self._welcome(seat)
            elif (result := self._finish(seat)) is not None:
                yield result

    def dismiss(self) -> None:
        import ray

        for seat in self.seats:
            ray.kill(seat.actor)

    def _hire(self, number: int) -> _Seat:
        actor = self._actor_class.remote(self._state, self._fence)
        return _Seat(number, actor, actor.ping.remote())

    def _replace(self, seat: _Seat) -> None:
        import ray

        ray.kill(seat.actor)  # where Ray only lost sight of it
        self.seats[seat.number] = self._hire(seat.number)

    def _hand_out(self) -> None:
        # A second shard queued on each actor hides the round trip; near the end it would make one wait.
        for depth in (1, 2):
            for seat in self.seats:
                spare = depth == 1 or len(self.todo) > len(self.seats)
                if seat.ping is None and len(seat.tasks) < depth and self.todo and spare:
                    shard, attempt = self.todo.popleft()
                    seat.tasks.append((seat.actor.run.remote(shard), shard, attempt))

    def _next(self) -> _Seat:
        """The seat from which something has come; PassError at the deadline."""
        import ray

        awaited = {seat.awaited: seat for seat in self.seats if seat.awaited is not None}
        started = any(seat.ping is None for seat in self.seats)
        patience = self.limits.deadline_s if started else self.limits.start_deadline_s
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=patience)
        if ready:
            return awaited[ready[0]]
        if not started:
            free, wanted = ray.available_resources().get("CPU", 0), len(self.seats)
            raise PassError(
                f"no worker started in {patience:.0f} s: Ray has {free:g} free CPUs and {wanted} are wanted, one a "
                "worker; stop what holds them, or run without --ray-address (what is finished is kept)"
            )
        busy = sorted(seat.tasks[0][1] for seat in self.seats if seat.tasks)
        raise PassError(
            f"no shard finished in {patience:.0f} s (running: {busy}); "
            "look at the workers' memory and disk, then run the same command again to resume"
        )

    def _welcome(self, seat: _Seat) -> None:
        import ray

        try:
            ray.get(seat.ping)
        except ray.exceptions.RayError as error:
            self.failed_starts += 1
            if self.failed_starts >= self.limits.attempts:
                raise PassError(
                    f"{self.failed_starts} workers in a row did not start, last with: {error}; look at the memory of "
                    "the machine, then run the same command again"
                ) from error
            self._replace(seat)
        else:
            self.failed_starts = 0
            seat.ping = None

    def _finish(self, seat: _Seat) -> ShardResult | None:
        """The seat's first shard: its result, or None where it has to be done again."""
        import ray

        reference, shard, attempt = seat.tasks.popleft()
        try:
            counts, seconds = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            self._try_again(shard, attempt, f"{type(cause).__name__}: {cause}", error)
        except ray.exceptions.RayError as error:
            # What was queued behind it was never begun and is not charged.
            self.todo.extendleft((queued, spent) for _, queued, spent in reversed(seat.tasks))
            cause = "the death of its worker process (often for lack of memory: try fewer --workers)"
            self._try_again(shard, attempt, cause, error)
            self._replace(seat)
        else:
            return ShardResult(shard, counts, seconds, attempt, seat.number)
        return None

    def _try_again(self, shard: Shard, attempt: int, cause: str, error: Exception) -> None:
        if attempt >= self.limits.attempts:
            raise shard_failed(shard, attempt, cause) from error
        self.todo.appendleft((shard, attempt + 1))


def start_ray(workers: int, address: str | None) -> None:
    """Attach to a Ray cluster, or start a quiet one with ``workers`` slots on this machine.

    Raises PassError where Ray does not start. Ray's servers listen on every interface, whatever
    address it is given, so its token authentication (a key in the user's home) stays on.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # What raylets print of dead workers: they are replaced, or the pass ends and says so.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    import ray

    if ray.is_initialized():
        if address is not None or _become_free(workers):
            return
        ray.shutdown()
    # Importing ray sets INFO, at which it tells every user that authentication is on.
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=200 * 1024**2, **quiet)
    except Exception as error:  # Ray raises OSError, RuntimeError, ValueError, its own
        where = f"at {address} cannot be reached" if address is not None else "does not start on this machine"
        remedy = "mend --ray-address" if address is not None else "run with --executor local"
        raise PassError(f"Ray {where} ({type(error).__name__}: {error}); {remedy}") from error


def _become_free(workers: int, wait_s: float = 5.0) -> bool:
    """Whether our own Ray has ``workers`` free CPUs, soon: now and then it keeps that of a killed actor."""
    import ray

    if ray.cluster_resources().get("CPU", 0) < workers:
        return False
    deadline = time.monotonic() + wait_s
    while ray.available_resources().get("CPU", 0) < workers:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
