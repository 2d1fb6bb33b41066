"""The pipeline of a worker: the next shard is read and the last one written while one is computed.

Each step has one thread, so a worker's arrays and caches are used by one thread at a time, and shards
pass in the order they were given. At most SHARDS_IN_FLIGHT shards are under way (whoever submits sees
to it), which bounds the memory of a worker: with I bytes a shard as read, O as computed and W the working
memory of the computation,

    bytes <= 2 max(I, O) + I + O + W

(one shard being read, one being written, and the one computed, of which both are held).
"""

import errno
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from skysom.cluster.errors import PassError
from skysom.cluster.ledger import Shard

SHARDS_IN_FLIGHT = 3
"""Of a worker: one being read, one computed, one written."""
STEPS = ("read", "compute", "write")
Guard = Callable[[], None]
"""Raises FencedError when another run has taken the output over; picklable."""


class ShardWorker(Protocol):
    """What a pass does with a shard. Its three steps run in threads of their own, at most one call each at a time.

    Python keeps warning filters for the whole process: only ``read`` may change them.
    """

    def read(self, shard: Shard) -> Any:
        """The input of the shard; runs ahead of compute and changes nothing."""
        ...

    def compute(self, shard: Shard, data: Any) -> Any:
        """Purely numerical: what is to be written."""
        ...

    def write(self, shard: Shard, result: Any) -> dict[str, Any]:
        """Write whole shards; all of it is written when this returns counts that fit in JSON."""
        ...


@dataclass(frozen=True)
class Work:
    """A shard done: its counts, seconds of each step, and the peak resident bytes of the process so far."""

    counts: dict[str, Any]
    read_s: float
    compute_s: float
    write_s: float
    memory_bytes: int


@dataclass
class _Flight:
    """A shard on its way; ``step`` is the last one begun, ``held`` what the last one left for the next."""

    shard: Shard
    outcome: Future = field(default_factory=Future)
    step: int = -1
    held: Any = None
    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0


class Pipeline:
    """The worker of this process, made by ``make_worker`` when the first shard is read.

    guard: called before a shard is read and right before it is written.
    """

    def __init__(self, make_worker: Callable[[], ShardWorker], guard: Guard | None = None) -> None:
        self._make, self._guard = make_worker, guard or (lambda: None)
        self._worker: ShardWorker | None = None
        self._flights: list[_Flight] = []
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [ThreadPoolExecutor(1, f"skysom-{step}", hold_one_thread) for step in STEPS]

    def submit(self, shard: Shard) -> Future:
        """Start on ``shard``: the future of its `Work`, or of None where it was recalled."""
        flight = _Flight(shard)
        with self._lock:
            self._flights.append(flight)
            self._threads[0].submit(self._run, 0, flight)
        return flight.outcome

    def recall(self) -> None:
        """Give back the shards that are not computed yet: nothing of them is or will be written."""
        with self._lock:
            for flight in [flight for flight in self._flights if flight.step < STEPS.index("compute")]:
                self._end(flight, None)

    def close(self) -> None:
        """Begin nothing more, and return when no step runs any longer."""
        with self._lock:
            self._closed = True
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for flight in list(self._flights):
            self._end(flight, CancelledError())

    def _run(self, step: int, flight: _Flight) -> None:
        with self._lock:
            if self._closed or flight.outcome.done():
                flight.held = None
                return
            flight.step = step
        started = time.perf_counter()
        try:
            getattr(self, f"_{STEPS[step]}")(flight)
        except BaseException as error:
            with self._lock:
                self._end(flight, _disk_full(error, flight.shard) or error)
            return
        setattr(flight, f"{STEPS[step]}_s", time.perf_counter() - started)
        with self._lock:
            if step + 1 == len(STEPS):
                self._end(flight, Work(flight.held, flight.read_s, flight.compute_s, flight.write_s, peak_memory()))
            elif not self._closed and not flight.outcome.done():
                self._threads[step + 1].submit(self._run, step + 1, flight)

    def _end(self, flight: _Flight, outcome: Work | BaseException | None) -> None:
        """Called with the lock held, or with no thread left; the first end counts."""
        flight.held = None
        if flight.outcome.done():
            return
        self._flights.remove(flight)
        if isinstance(outcome, BaseException):
            flight.outcome.set_exception(outcome)
        else:
            flight.outcome.set_result(outcome)

    def _read(self, flight: _Flight) -> None:
        self._guard()
        # Made here: an error while making it is then an error of the shard, with its cause.
        if self._worker is None:
            self._worker = self._make()
        flight.held = self._worker.read(flight.shard)

    def _compute(self, flight: _Flight) -> None:
        assert self._worker is not None
        hold_one_thread()  # again: the last shard may have loaded another library
        data, flight.held = flight.held, None
        flight.held = self._worker.compute(flight.shard, data)

    def _write(self, flight: _Flight) -> None:
        assert self._worker is not None
        self._guard()
        result, flight.held = flight.held, None
        flight.held = self._worker.write(flight.shard, result)


def hold_one_thread() -> None:
    """Hold BLAS (of this process) and OpenMP (of this thread) to one thread: a worker has one core."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def peak_memory() -> int:
    """Most bytes this process has had resident; 0 where the system does not tell."""
    # Not getrusage: a process that Ray forks begins with the peak of its parent.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _disk_full(error: BaseException, shard: Shard) -> PassError | None:
    """The error of a full disk behind ``error``; it does not pass by waiting."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            full = PassError(
                f"disk full on {socket.gethostname()} at rows {shard[0]}..{shard[1]}: {cause}; what is finished is "
                "kept: free some space or raise the quota, and run the same command again"
            )
            full.__cause__ = error
            return full
        cause = cause.__cause__ or cause.__context__
    return None
