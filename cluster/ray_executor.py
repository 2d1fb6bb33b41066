"""Shards on Ray actors, and how Ray is started or found."""

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skysom.cluster.errors import PassError
from skysom.cluster.executors import ATTEMPTS, PAUSES_S, ShardResult
from skysom.cluster.ledger import Shard
from skysom.cluster.pipeline import Guard, ShardWorker
from skysom.cluster.shard_crew import ShardCrew

STORE_BYTES = 200 * 1024**2
"""Smallest object store of a Ray started here."""
CONNECT_S = 20.0
"""Longest wait for the head of a cluster to answer."""


@dataclass(frozen=True)
class RayExecutor:
    """Ray actors, one a worker, each with one core, one BLAS thread and ``gpus_per_worker`` GPUs.

    workers: as many actors, which may exceed the cores (those an existing cluster has no free CPU for join
    when it has); None: as many as its living nodes have room for, looked at every look_s seconds, so that
    nodes may join and leave during a pass. address: an existing cluster ("auto", "host:port"), or None to
    start Ray on this machine. deadline_s: longest time without any shard finished; start_deadline_s:
    longest time without any worker. pauses_s: see Backlog. fence: file each actor holds while it lives
    (see OutputLock); for workers of this machine only.
    """

    workers: int | None
    address: str | None = None
    attempts: int = ATTEMPTS
    deadline_s: float = 3600.0
    start_deadline_s: float = 300.0
    fence: Path | None = None
    gpus_per_worker: float = 0
    pauses_s: tuple[float, ...] = PAUSES_S
    look_s: float = 2.0

    def run(
        self, make_worker: Callable[[], ShardWorker], shards: Sequence[Shard], guard: Guard | None = None
    ) -> Iterator[ShardResult]:
        """See Executor.run; make_worker and guard must be picklable, shards finish in any order."""
        start_ray(self.workers, self.address)
        crew = ShardCrew(self, make_worker, shards, guard)
        try:
            yield from crew.results()
        finally:
            crew.dismiss()


def local_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def start_ray(workers: int | None, address: str | None, shared_bytes: int = 0) -> None:
    """Attach to a Ray cluster, or start a quiet one with ``workers`` slots (None: one a core) on this machine.

    shared_bytes: most that is in its object store at a time; what does not fit goes through the disk.

    Raises PassError where Ray does not start. Ray's servers listen on every interface, whatever
    address it is given, so its token authentication (a key in the user's home) stays on.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # What raylets print of dead workers: they are replaced, or the pass ends and says so.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    import ray

    workers, store_bytes = workers or local_cores(), _store_bytes(shared_bytes)
    if ray.is_initialized():
        if address is not None or (_has_store(store_bytes) and _become_free(workers)):
            return
        ray.shutdown()
    # Importing ray sets INFO, at which it tells every user that authentication is on.
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    try:
        if address is not None:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            # "local": whatever RAY_ADDRESS says, which whoever wants it has passed on.
            ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=store_bytes, **quiet)
    except Exception as error:  # Ray raises OSError, RuntimeError, ValueError, its own
        where = f"at {address} cannot be reached" if address is not None else "does not start on this machine"
        remedy = "mend --ray-address or RAY_ADDRESS" if address is not None else "run with --executor local"
        raise PassError(f"Ray {where} ({type(error).__name__}: {error}); {remedy}") from error


def _knock(address: str) -> None:
    """OSError soon where nobody answers at "host:port": Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _store_bytes(shared_bytes: int) -> int:
    """Size of an object store for ``shared_bytes`` (Ray spills from 80 % on), if shared memory has so much."""
    try:
        shared = os.statvfs("/dev/shm")
    except OSError:
        return STORE_BYTES
    free = shared.f_bavail * shared.f_frsize
    return max(STORE_BYTES, min(3 * shared_bytes // 2, free * 9 // 10))


def _has_store(store_bytes: int) -> bool:
    """Whether the object store of our own Ray is as large, nearly."""
    import ray

    return ray.cluster_resources().get("object_store_memory", math.inf) >= 0.9 * store_bytes


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
