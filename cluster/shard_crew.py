"""The Ray actors of a pass: hired, handed shards, replaced when they die, let go.

- Shards go only to actors that have started, up to SHARDS_IN_FLIGHT each (one near the end, where a second
  would wait while others are idle).
- A dead actor is replaced here rather than by Ray (max_restarts), which charges every call on it. All its
  shards are suspects then: each is tried alone on a worker, and only a death alone is charged to it. The
  death of a whole node is charged to none.
- Stragglers: when nothing is left to hand out, shards that a slow worker has not begun to compute are taken
  back and given to idle ones. A shard that is being computed is never done a second time elsewhere: two
  writers never share a shard.
- Actors wait for nothing but their arguments; every wait here has a deadline.
"""

import math
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skysom.cluster.backlog import Backlog, Job
from skysom.cluster.errors import PassError
from skysom.cluster.executors import ShardResult
from skysom.cluster.ledger import Shard
from skysom.cluster.lock import hold_fence
from skysom.cluster.pipeline import SHARDS_IN_FLIGHT, Guard, Pipeline, ShardWorker, Work

if TYPE_CHECKING:
    from skysom.cluster.ray_executor import RayExecutor

ANSWER_S = 60.0
"""Longest wait for an answer that is known to be there, or for the state of a pass to arrive."""
LATE_FACTOR, LATE_S = 3.0, 5.0
"""A worker is slow when it holds a shard longer than LATE_S and LATE_FACTOR medians."""


class _Actor:
    """Holds the pipeline of one worker; its calls run in threads, as many as shards are in flight."""

    def __init__(self, state: list[Any], fence: str | None) -> None:
        self.state, self.lock = state, threading.Lock()
        self.pipeline: Pipeline | None = None
        # Held until this process dies. No shard is sent before the ping has returned, so whoever finds
        # the fence free while owning the output knows that no process of a dead run writes any more.
        self.fence = hold_fence(Path(fence)) if fence is not None else None

    def ping(self) -> dict[str, str]:
        """Where it runs; returns when the actor has started."""
        return whereabouts()

    def run(self, shard: Shard) -> Work | None:
        """The shard's work, or None where it was recalled."""
        import ray

        with self.lock:
            if self.pipeline is None:
                self.pipeline = Pipeline(*ray.get(self.state[0], timeout=ANSWER_S))
        return self.pipeline.submit(shard).result()

    def recall(self) -> None:
        """See Pipeline.recall."""
        if self.pipeline is not None:
            self.pipeline.recall()


@dataclass
class _Seat:
    """One actor: ``ping`` until it has started, then its shards in the order they were sent, each with the time."""

    number: int
    actor: Any
    ping: Any
    place: dict[str, str] = field(default_factory=dict)
    tasks: dict[Any, tuple[Job, float]] = field(default_factory=dict)
    recalled: bool = False

    @property
    def started(self) -> bool:
        return self.ping is None

    def takes(self, depth: int) -> bool:
        """Whether it may be given its ``depth``-th shard: next to a suspect there is none."""
        return self.started and len(self.tasks) < depth and not any(job.alone for job, _ in self.tasks.values())


class ShardCrew:
    """The actors of one pass and the shards that are left."""

    def __init__(
        self,
        limits: "RayExecutor",
        make_worker: Callable[[], ShardWorker],
        shards: Sequence[Shard],
        guard: Guard | None,
    ) -> None:
        import ray

        self.limits = limits
        self.backlog = Backlog(shards, limits.attempts, limits.pauses_s)
        check_gpus(limits.workers, limits.gpus_per_worker)
        options: dict[str, Any] = {"num_gpus": limits.gpus_per_worker, "max_concurrency": SHARDS_IN_FLIGHT + 1}
        self._actor_class: Any = ray.remote(num_cpus=1, **options)(_Actor)
        self._fence = str(limits.fence.resolve()) if limits.fence is not None else None
        # In a list Ray hands the reference itself to the actor, which reads it within its first shard.
        self._state = [ray.put((make_worker, guard))]
        self._seats: dict[int, _Seat] = {}
        self._failed_starts = 0
        self._held_s: deque[float] = deque(maxlen=99)
        self._looked = -math.inf
        self._progress, self._manned = time.monotonic(), False

    def results(self) -> Iterator[ShardResult]:
        """Yield results until no shard is left; PassError as `Executor.run`."""
        while self.backlog or any(seat.tasks for seat in self._seats.values()):
            if time.monotonic() - self._looked > self.limits.look_s:
                self._looked = time.monotonic()
                self._fit()
                self._recall()
            self._hand_out()
            self._check_deadline()
            for seat, reference in self._arrived():
                if reference == seat.ping:
                    self._welcome(seat)
                else:
                    yield from self._receive(seat, reference)

    def dismiss(self) -> None:
        """Kill the actors."""
        import ray

        for seat in self._seats.values():
            ray.kill(seat.actor)

    # --- hiring -------------------------------------------------------------------------------

    def _fit(self) -> None:
        """Hire where there is work and room; let those go that wait in vain for room that has gone."""
        import ray

        outstanding = len(self.backlog) + sum(len(seat.tasks) for seat in self._seats.values())
        wanted = self.limits.workers or max(1, sum(rooms(self.limits.gpus_per_worker)))
        for seat in [seat for seat in self._seats.values() if not seat.started]:
            if len(self._seats) > wanted:
                del self._seats[seat.number]
                ray.kill(seat.actor)
        for number in range(min(wanted, outstanding)):
            if len(self._seats) < min(wanted, outstanding) and number not in self._seats:
                self._hire(number)

    def _hire(self, number: int) -> None:
        actor = self._actor_class.remote(self._state, self._fence)
        self._seats[number] = _Seat(number, actor, actor.ping.remote())

    def _welcome(self, seat: _Seat) -> None:
        import ray

        try:
            seat.place = ray.get(seat.ping, timeout=ANSWER_S)
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            ray.kill(seat.actor)  # where Ray only lost sight of it
            del self._seats[seat.number]  # another is hired at the next look
            if self._failed_starts >= self.limits.attempts and not self._started():
                raise PassError(
                    f"{self._failed_starts} workers in a row did not start, last with: {error}; look at the memory of "
                    "the machine, then run the same command again"
                ) from error
        else:
            self._failed_starts = 0
            seat.ping = None

    def _started(self) -> list[_Seat]:
        return [seat for seat in self._seats.values() if seat.started]

    # --- handing out --------------------------------------------------------------------------

    def _hand_out(self) -> None:
        seats = self._started()
        for depth in range(1, SHARDS_IN_FLIGHT + 1):
            for seat in seats:
                # Near the end a second shard would wait here while others are idle.
                if not seat.takes(depth) or (depth > 1 and len(self.backlog) <= len(seats)):
                    continue
                job = self.backlog.take(idle=not seat.tasks)
                if job is not None:
                    seat.tasks[seat.actor.run.remote(job.shard)] = (job, time.monotonic())
                    seat.recalled = False

    def _recall(self) -> None:
        """Take waiting shards from slow workers when others have nothing to do."""
        seats = self._started()
        if self.backlog or not self._held_s or all(seat.tasks for seat in seats):
            return
        late_s = max(LATE_S, LATE_FACTOR * statistics.median(self._held_s))
        for seat in seats:
            oldest = min((sent for _, sent in seat.tasks.values()), default=math.inf)
            if len(seat.tasks) > 1 and not seat.recalled and time.monotonic() - oldest > late_s:
                seat.recalled = True
                seat.actor.recall.remote()

    # --- what comes back ----------------------------------------------------------------------

    def _arrived(self) -> list[tuple[_Seat, Any]]:
        """What has come from which seat; nothing after a look's time."""
        import ray

        awaited = {seat.ping: seat for seat in self._seats.values() if not seat.started}
        awaited |= {reference: seat for seat in self._seats.values() for reference in seat.tasks}
        pause_s = self.backlog.wait_s()
        wait_s = min(self.limits.look_s, math.inf if pause_s is None else max(pause_s, 0.0))
        if not awaited:
            time.sleep(wait_s)
            return []
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=wait_s)
        return [(awaited[reference], reference) for reference in ready]

    def _check_deadline(self) -> None:
        """PassError when for too long no shard has finished, or nobody has been there to work."""
        now, manned = time.monotonic(), bool(self._started())
        if manned != self._manned:
            self._manned, self._progress = manned, now
        if not manned and now - self._progress >= self.limits.start_deadline_s:
            raise self._nobody()
        if manned and now - self._progress >= self.limits.deadline_s:
            busy = sorted(job.shard for seat in self._seats.values() for job, _ in seat.tasks.values())
            raise PassError(
                f"no shard finished in {self.limits.deadline_s:.0f} s (running: {busy}); "
                "look at the workers' memory and disk, then run the same command again to resume"
            )

    def _nobody(self) -> PassError:
        import ray

        free, wanted, gpus = ray.available_resources(), max(len(self._seats), 1), self.limits.gpus_per_worker
        patience_s = self.limits.start_deadline_s
        has = f"{free.get('CPU', 0):g} free CPUs" + (f" and {free.get('GPU', 0):g} free GPUs" if gpus else "")
        each = "one a worker" + (f" with {gpus:g} GPUs" if gpus else "")
        return PassError(
            f"no worker started in {patience_s:.0f} s: Ray has {has} and {wanted} are wanted, {each}; "
            "stop what holds them, or run without --ray-address (what is finished is kept)"
        )

    def _receive(self, seat: _Seat, reference: Any) -> Iterator[ShardResult]:
        """The result of a task, if it has one; if its actor has died, those of all its tasks."""
        import ray

        job, sent = seat.tasks.pop(reference)
        try:
            work = ray.get(reference, timeout=ANSWER_S)
        except ray.exceptions.RayTaskError as error:
            self.backlog.failed(job, error.cause, f"{type(error.cause).__name__}: {error.cause}", error)
        except ray.exceptions.RayError as error:
            yield from self._bury(seat, job, error)
        else:
            if work is None:  # recalled: it was not begun
                job.begun -= 1
                self.backlog.put_back(job)
                return
            self._progress = time.monotonic()
            self._held_s.append(self._progress - sent)
            yield self._result(seat, job, work)

    def _result(self, seat: _Seat, job: Job, work: Work) -> ShardResult:
        return ShardResult(
            job.shard, work.counts, work.read_s, work.compute_s, work.write_s,
            attempts=job.begun, worker=seat.number, host=seat.place["host"], memory_bytes=work.memory_bytes,
            device=seat.place["device"], workers=len(self._started()),
        )  # fmt: skip

    def _bury(self, seat: _Seat, job: Job, error: Exception) -> Iterator[ShardResult]:
        """Replace a dead actor, with the results it left; what it held else are suspects."""
        import ray

        ray.kill(seat.actor)  # where Ray only lost sight of it
        lost = [job]
        for reference, (other, _) in seat.tasks.items():
            try:
                work = ray.get(reference, timeout=ANSWER_S)
            except ray.exceptions.RayTaskError as failure:
                self.backlog.failed(other, failure.cause, f"{type(failure.cause).__name__}: {failure.cause}", failure)
            except ray.exceptions.RayError:
                lost.append(other)
            else:
                if work is not None:
                    yield self._result(seat, other, work)
                else:
                    self.backlog.put_back(other)
        seat.tasks.clear()
        if len(lost) > 1 or not _alive(seat.place["node"]):
            for other in lost:
                self.backlog.put_back(other, alone=True)
        else:
            job.alone = True
            reason = "the death of its worker process (often for lack of memory: try fewer --workers)"
            self.backlog.failed(job, error, reason)
        self._hire(seat.number)


def whereabouts() -> dict[str, str]:
    """Host, device ("cpu", or the GPUs Ray assigned) and Ray node of the actor this is called in."""
    import ray

    context = ray.get_runtime_context()
    gpus = context.get_accelerator_ids().get("GPU", [])
    device = f"gpu {' '.join(gpus)}" if gpus else "cpu"
    return {"host": socket.gethostname(), "device": device, "node": context.get_node_id()}


def rooms(gpus_per_worker: float) -> list[int]:
    """Workers each living node has room for, whoever uses it now."""
    import ray

    found = []
    for node in ray.nodes():
        if node["Alive"]:
            cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
            share = gpus_per_worker
            if share > 0:  # a worker's share of a GPU is on one GPU
                cpus = min(cpus, gpus * int(1 / share + 1e-9) if share < 1 else int(gpus / share))
            found.append(cpus)
    return found


def check_gpus(workers: int | None, gpus_per_worker: float) -> None:
    """PassError where the cluster has not the GPUs that are asked for: no wait would help."""
    import ray

    if not gpus_per_worker:
        return
    room, wanted = sum(rooms(gpus_per_worker)), workers or 1
    if room < wanted:
        gpus = sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])
        raise PassError(
            f"Ray has {gpus:g} GPUs, room for {room} workers of {gpus_per_worker:g} GPUs and a CPU each, and {wanted} "
            "are wanted; lower --workers (left out it is as many as there is room for), give each worker a smaller "
            "share of a GPU, or start Ray's nodes with their GPUs (ray start --num-gpus)"
        )


def _alive(node_id: str) -> bool:
    """Whether Ray counts a node among the living."""
    import ray

    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())
