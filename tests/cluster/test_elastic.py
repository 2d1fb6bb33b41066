"""Clusters of several nodes on this machine: nodes join and leave during a pass, GPUs are declared, stragglers."""

import importlib.util
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from skysom.cluster import shard_crew
from skysom.cluster.errors import PassError
from skysom.cluster.ray_executor import RayExecutor, start_ray

_spec = importlib.util.spec_from_file_location("elastic_workers", Path(__file__).with_name("workers.py"))
workers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(workers)

SHARDS = [(first, first + 1) for first in range(24)]
LIMITS = {"deadline_s": 120, "start_deadline_s": 120, "look_s": 0.5}


@pytest.fixture(scope="module", autouse=True)
def _workers_travel():
    """Ray pickles the worker classes by value: their module is not importable in another process."""
    start_ray(1, None)  # before ray is imported: it reads its settings for quiet then
    import ray
    from ray import cloudpickle

    ray.shutdown()
    sys.modules["elastic_workers"] = workers
    cloudpickle.register_pickle_by_value(workers)
    yield
    cloudpickle.unregister_pickle_by_value(workers)
    del sys.modules["elastic_workers"]


@pytest.fixture
def cluster():
    """Return a function that makes a cluster whose head has the given resources."""
    import ray
    from ray.cluster_utils import Cluster

    made = []

    def make(**head):
        made.append(Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head}))
        return made[0]

    yield make
    ray.shutdown()
    for cluster in made:
        cluster.shutdown()


EXPECTED = {f"shard-{first}": str(first) for first, _ in SHARDS}


def until(condition, what):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def run(executor, folder, act):
    """Results of a pass whose shards from number 1 on wait until ``act`` is through."""
    start_ray(None, executor.address)
    make = workers.Make(workers.FileWorker(folder, gate=1))
    with ThreadPoolExecutor(1) as beside:  # the nodes of a cluster are made in the main thread
        results = beside.submit(lambda: list(executor.run(make, SHARDS)))
        try:
            act()
        finally:
            (folder / "go").touch()
        results = results.result()
    assert sorted(result.shard for result in results) == SHARDS
    assert {path.name: path.read_text() for path in folder.glob("shard-*")} == EXPECTED
    return results


def readers(folder):
    """Processes that have begun to read a shard."""
    return {pid for _, _, pid, _ in workers.steps(folder)}


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_the_shards_of_a_node_that_is_killed_are_done_elsewhere(tmp_path, cluster):
    nodes = cluster(num_cpus=1)
    lost = nodes.add_node(num_cpus=1)

    def act():
        until(lambda: len(readers(tmp_path)) == 2, "the second worker never came")
        pids = readers(tmp_path)
        nodes.remove_node(lost, allow_graceful=False)
        # A worker outlives its node for a moment, in which it could deliver what it holds.
        until(lambda: not all(alive(pid) for pid in pids), "no worker died with its node")

    results = run(RayExecutor(2, nodes.address, **LIMITS), tmp_path, act)
    assert 1 < max(result.attempts for result in results) <= 3, "nothing was in flight on the node"


def test_a_node_that_joins_gets_workers_and_one_that_leaves_is_not_missed(tmp_path, cluster):
    nodes = cluster(num_cpus=1)

    def act():
        until(lambda: len(readers(tmp_path)) == 1, "no worker came")
        joined = nodes.add_node(num_cpus=1)
        until(lambda: len(readers(tmp_path)) == 2, "the new node got no worker")
        nodes.remove_node(joined, allow_graceful=False)

    run(RayExecutor(None, nodes.address, **LIMITS), tmp_path, act)


def test_every_worker_gets_the_gpus_it_is_promised(tmp_path, cluster):
    nodes = cluster(num_cpus=4, num_gpus=2)
    executor = RayExecutor(None, nodes.address, gpus_per_worker=1, **LIMITS)
    results = run(executor, tmp_path, lambda: until(lambda: len(readers(tmp_path)) == 2, "there is one worker"))
    assert {result.device for result in results} == {"gpu 0", "gpu 1"}
    with pytest.raises(PassError, match=r"Ray has 2 GPUs, room for 2 workers of 1 GPUs .* and 3 are wanted; lower"):
        list(RayExecutor(3, nodes.address, gpus_per_worker=1).run(workers.Make(None), SHARDS))
    assert [sum(shard_crew.rooms(share)) for share in (0, 0.4, 0.5, 1, 2, 3)] == [4, 4, 4, 2, 1, 0]


def test_a_cluster_without_gpus_is_an_error_before_any_wait(tmp_path, cluster):
    nodes = cluster(num_cpus=2)
    make = workers.Make(workers.FileWorker(tmp_path))
    with pytest.raises(PassError, match=r"Ray has 0 GPUs, room for 0 workers.*ray start --num-gpus"):
        list(RayExecutor(None, nodes.address, gpus_per_worker=1, start_deadline_s=1e9).run(make, SHARDS))
    assert not readers(tmp_path)


def test_shards_waiting_behind_a_slow_one_go_to_idle_workers_and_none_is_done_twice(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(shard_crew, "LATE_S", 0.5)
    nodes = cluster(num_cpus=2)
    # Shard 0 waits for the gate, which opens when all others are done: those behind it must have been taken back.
    make = workers.Make(workers.FileWorker(tmp_path, gate=0, only=True))
    results = []
    for result in RayExecutor(2, nodes.address, **LIMITS).run(make, SHARDS):
        results.append(result)
        if len(results) == len(SHARDS) - 1:
            (tmp_path / "go").touch()
    assert sorted(result.shard for result in results) == SHARDS
    assert results[-1].shard == (0, 1)
    written = [first for step, first, _, _ in workers.steps(tmp_path) if step == "write"]
    assert sorted(written) == [first for first, _ in SHARDS], "a shard was written twice"
