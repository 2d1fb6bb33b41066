"""Where the workers of batched training live: in this process, or in Ray actors that may come and go.

A crew hands calls to workers and yields what comes back. Calls can be made by any worker, so one that was
lost is replaced and its call made elsewhere.
"""

import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from skysom.cluster.errors import PassError
from skysom.cluster.executors import ATTEMPTS, PAUSES_S, one_thread
from skysom.cluster.ray_executor import start_ray
from skysom.cluster.shard_crew import check_gpus, rooms, whereabouts
from skysom.cluster.shards import Runtime
from skysom.cluster.training_worker import TrainingWorker

MakeWorker = Callable[[], TrainingWorker]
LOOK_S = 5.0
"""Seconds between looks at what the cluster has room for."""
GATHER_S = 15.0
"""Longest wait for all workers once the first has started, so that images are dealt out once."""


class Crew(Protocol):
    """Workers in numbered seats."""

    def seats(self) -> list[int]:
        """Seats whose workers have started, ascending; at least one."""
        ...

    def share(self, value: Any) -> Any:
        """``value`` as an argument of calls that all workers get; sent to each host once."""
        ...

    def tell(self, method: str, arguments: Mapping[int, tuple]) -> None:
        """Call ``method`` of the workers in some seats without waiting; failures show when they are needed.

        A worker that takes a seat later is called, too, unless something else was told meanwhile.
        """
        ...

    def ask(self, method: str, arguments: Mapping[int, tuple]) -> Iterator[tuple[int, int, Any]]:
        """Call ``method`` with the arguments of each key; yield (key, seat that did it, result) as they come.

        PassError when a call failed three times, or nothing came within the deadline.
        """
        ...

    def describe(self) -> dict[int, dict[str, str]]:
        """Host and device of each seat there has been."""
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


def open_crew(make_worker: MakeWorker, runtime: Runtime, shared_bytes: int = 0) -> Crew:
    """The crew ``runtime`` asks for: this process for one worker, Ray for more, for GPUs or for a cluster.

    shared_bytes : most that is shared or on its way back at a time.
    """
    wants_ray = runtime.executor == "ray" or runtime.address is not None or runtime.gpus_per_worker > 0
    if runtime.executor == "local" or not (wants_ray or runtime.workers_here > 1):
        return LocalCrew(make_worker)
    start_ray(runtime.workers, runtime.address, shared_bytes)
    check_gpus(runtime.workers, runtime.gpus_per_worker)
    return RayCrew(make_worker, runtime.workers, gpus_per_worker=runtime.gpus_per_worker, deadline_s=runtime.deadline_s)


class LocalCrew:
    """One worker in this process, with numerical libraries held to one thread."""

    def __init__(self, make_worker: MakeWorker) -> None:
        self._worker = make_worker()

    def seats(self) -> list[int]:
        return [0]

    def share(self, value: Any) -> Any:
        return value

    def tell(self, method: str, arguments: Mapping[int, tuple]) -> None:
        for values in arguments.values():
            getattr(self._worker, method)(*values)

    def ask(self, method: str, arguments: Mapping[int, tuple]) -> Iterator[tuple[int, int, Any]]:
        for key, values in arguments.items():
            for attempt in range(ATTEMPTS):
                time.sleep(PAUSES_S[attempt])
                try:
                    result = one_thread(getattr(self._worker, method), *values)
                except Exception as error:
                    if attempt + 1 == ATTEMPTS:
                        raise _failed(method, f"{type(error).__name__}: {error}") from error
                else:
                    yield key, 0, result
                    break

    def describe(self) -> dict[int, dict[str, str]]:
        return {0: {"host": socket.gethostname(), "device": "cpu"}}

    def close(self) -> None:
        self._worker.close()


class _Actor:
    """Holds one worker; made on first use, so that an error while making it has its cause."""

    def __init__(self, make_worker: list[Any]) -> None:
        self.make_worker = make_worker
        self.worker: TrainingWorker | None = None

    def ping(self) -> dict[str, str]:
        return whereabouts()

    def call(self, method: str, *arguments: Any) -> Any:
        import ray

        if self.worker is None:
            self.worker = one_thread(ray.get(self.make_worker[0], timeout=300))
        return one_thread(getattr(self.worker, method), *arguments)


@dataclass
class _Call:
    """A call under way: its key, the seat and the actor that have it, and how often it was made."""

    key: int
    seat: int
    attempt: int
    actor: Any = None


class RayCrew:
    """Ray actors, one a core (and GPU); lost ones are replaced, and join when they have started.

    workers : seats wanted; None for as many as the living nodes have room for, looked at every LOOK_S seconds, so
    that nodes may join and leave during a training. gpus_per_worker : Ray's num_gpus of each. deadline_s : longest
    time without any result; start_deadline_s : longest time without any worker.
    """

    def __init__(
        self,
        make_worker: MakeWorker,
        workers: int | None,
        *,
        gpus_per_worker: float = 0,
        deadline_s: float = 3600.0,
        start_deadline_s: float = 300.0,
    ) -> None:
        import ray

        self.workers, self.gpus_per_worker = workers, gpus_per_worker
        self.deadline_s, self.start_deadline_s = deadline_s, start_deadline_s
        self._make: Any = ray.remote(num_cpus=1, num_gpus=gpus_per_worker)(_Actor)
        self._state = [ray.put(make_worker)]
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._live: set[int] = set()
        self._places: dict[int, dict[str, str]] = {}
        self._told: tuple[str, Mapping[int, tuple]] = "", {}
        self._looked, self._gather_until = -math.inf, math.inf
        self._fit()

    def seats(self) -> list[int]:
        if time.monotonic() - self._looked > LOOK_S:
            self._fit()
        self._welcome(0 if self._live else self.start_deadline_s)
        return sorted(self._live)

    def share(self, value: Any) -> Any:
        import ray

        return ray.put(value)

    def tell(self, method: str, arguments: Mapping[int, tuple]) -> None:
        self._told = method, arguments
        for seat in arguments:
            if seat in self._live:
                self._tell(seat)

    def _tell(self, seat: int) -> None:
        method, arguments = self._told
        if seat in arguments:
            self._actors[seat].call.remote(method, *arguments[seat])

    def ask(self, method: str, arguments: Mapping[int, tuple]) -> Iterator[tuple[int, int, Any]]:
        import ray

        live = self.seats()
        pending: dict[Any, _Call] = {}
        for i, key in enumerate(arguments):
            self._send(pending, method, arguments[key], _Call(key, key if key in live else live[i % len(live)], 1))
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=self.deadline_s)
            if not ready:
                hosts = sorted({self._places[call.seat]["host"] for call in pending.values()})
                raise PassError(
                    f"no worker finished its part of a batch in {self.deadline_s:.0f} s (waiting for "
                    f"{', '.join(hosts)}); look at their memory and disk, then run the same command again to go on "
                    "from the last checkpoint"
                )
            call = pending.pop(ready[0])
            try:
                result = ray.get(ready[0], timeout=self.deadline_s)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                self._again(pending, method, arguments, call, f"{type(cause).__name__}: {cause}", error)
            except ray.exceptions.RayError as error:
                self._lose(call.seat, call.actor)
                cause = "the death of its worker process (often for lack of memory: try fewer --workers)"
                self._again(pending, method, arguments, call, cause, error)
            else:
                yield call.key, call.seat, result

    def describe(self) -> dict[int, dict[str, str]]:
        return {seat: {key: place[key] for key in ("host", "device")} for seat, place in self._places.items()}

    def close(self) -> None:
        import ray

        for actor in self._actors.values():
            ray.kill(actor)

    def _send(self, pending: dict[Any, _Call], method: str, values: tuple, call: _Call) -> None:
        call.actor = self._actors[call.seat]
        pending[call.actor.call.remote(method, *values)] = call

    def _again(
        self, pending: dict, method: str, arguments: Mapping[int, tuple], call: _Call, cause: str, error: Exception
    ) -> None:
        if call.attempt >= ATTEMPTS:
            raise _failed(method, cause) from error
        time.sleep(PAUSES_S[call.attempt])
        live = self.seats()
        # The seat with the least to do; the same one where the worker still lives.
        busy = [other.seat for other in pending.values()]
        seat = call.seat if call.seat in live else min(live, key=busy.count)
        self._send(pending, method, arguments[call.key], _Call(call.key, seat, call.attempt + 1))

    def _fit(self) -> None:
        """Hire for seats that are wanted and empty."""
        self._looked = time.monotonic()
        wanted = self.workers or max(1, sum(rooms(self.gpus_per_worker)))
        for seat in range(wanted):
            if seat not in self._actors:
                self._hire(seat)

    def _hire(self, seat: int) -> None:
        self._actors[seat] = self._make.remote(self._state)
        self._starting[self._actors[seat].ping.remote()] = seat

    def _lose(self, seat: int, actor: Any) -> None:
        import ray

        if self._actors[seat] is actor:  # else another call that was lost with it has had it replaced
            self._live.discard(seat)
            ray.kill(actor)
            self._hire(seat)

    def _welcome(self, wait_s: float) -> None:
        """Seat workers that have started; wait for the first up to ``wait_s``, then once for the others."""
        import ray

        deadline = time.monotonic() + wait_s
        while self._starting:
            left = (self._gather_until if self._live else deadline) - time.monotonic()
            ready, _ = ray.wait(list(self._starting), num_returns=1, timeout=max(left, 0))
            if not ready:
                break
            seat = self._starting.pop(ready[0])
            try:
                self._places[seat] = ray.get(ready[0], timeout=60)
                self._live.add(seat)
                self._tell(seat)  # one that replaces another holds what that one was told to
                self._gather_until = min(self._gather_until, time.monotonic() + GATHER_S)
            except ray.exceptions.RayError:
                if time.monotonic() < deadline or self._live:
                    self._hire(seat)
        if not self._live:
            free = ray.available_resources()
            raise PassError(
                f"no training worker started in {self.start_deadline_s:.0f} s: Ray has {free.get('CPU', 0):g} free "
                f"CPUs and {free.get('GPU', 0):g} free GPUs, {len(self._actors)} workers are wanted; stop what holds "
                "them, or ask for fewer --workers (the last checkpoint is kept)"
            )


def _failed(method: str, cause: str) -> PassError:
    return PassError(
        f"a part of a batch failed {ATTEMPTS} times (to {method}), last with {cause}; "
        "mend the cause and run the same command again: it goes on from the last checkpoint"
    )
