"""The pipeline of a worker: overlap, its bound, order, recall, guard, errors."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from skysom.cluster.errors import FencedError, PassError
from skysom.cluster.executors import LocalExecutor
from skysom.cluster.pipeline import SHARDS_IN_FLIGHT, Pipeline, peak_memory

SHARDS = [(first, first + 1) for first in range(12)]


class Recorder:
    """Notes begin and end of every step; steps named in ``gates`` wait until their event is set."""

    def __init__(self, **gates):
        self.events, self.gates, self.lock = [], gates, threading.Lock()

    def step(self, step, shard):
        with self.lock:
            self.events.append(("begin", step, shard[0]))
        if step in self.gates:
            assert self.gates[step].wait(30)
        time.sleep(0.002)
        with self.lock:
            self.events.append(("end", step, shard[0]))

    def read(self, shard):
        self.step("read", shard)
        return shard[0]

    def compute(self, shard, data):
        self.step("compute", shard)
        return data * data

    def write(self, shard, result):
        self.step("write", shard)
        return {"square": result}

    def order(self, kind, step):
        return [shard for k, s, shard in self.events if (k, s) == (kind, step)]

    def until(self, event):
        deadline = time.monotonic() + 30
        while event not in self.events:
            assert time.monotonic() < deadline
            time.sleep(0.002)


def test_steps_of_different_shards_overlap_and_shards_keep_their_order():
    gate = threading.Event()
    recorder = Recorder(compute=gate)
    pipeline = Pipeline(lambda: recorder)
    futures = [pipeline.submit(shard) for shard in SHARDS[:2]]
    recorder.until(("begin", "compute", 0))
    recorder.until(("end", "read", 1))  # the next is read while the first is computed
    gate.set()
    assert [future.result(30).counts["square"] for future in futures] == [0, 1]
    pipeline.close()


def test_at_most_three_shards_are_in_flight():
    recorder = Recorder()
    results = list(LocalExecutor().run(lambda: recorder, SHARDS))
    assert [result.counts["square"] for result in results] == [first * first for first, _ in SHARDS]
    for step in ("read", "compute", "write"):
        assert recorder.order("begin", step) == [first for first, _ in SHARDS]
    begun = written = most = 0
    for kind, step, _ in recorder.events:
        begun += (kind, step) == ("begin", "read")
        written += (kind, step) == ("end", "write")
        most = max(most, begun - written)
    assert 1 < most <= SHARDS_IN_FLIGHT


def test_recalled_shards_come_back_at_once_and_are_never_written():
    gate = threading.Event()
    recorder = Recorder(compute=gate)
    pipeline = Pipeline(lambda: recorder)
    futures = [pipeline.submit(shard) for shard in SHARDS[:3]]
    recorder.until(("begin", "compute", 0))
    pipeline.recall()
    assert [future.result(30) for future in futures[1:]] == [None, None]
    assert not futures[0].done()
    gate.set()
    assert futures[0].result(30).counts == {"square": 0}
    pipeline.close()
    assert recorder.order("begin", "compute") == [0]
    assert recorder.order("begin", "write") == [0]


def test_closing_waits_for_what_runs_and_begins_nothing():
    gate = threading.Event()
    recorder = Recorder(compute=gate)
    pipeline = Pipeline(lambda: recorder)
    futures = [pipeline.submit(shard) for shard in SHARDS[:3]]
    recorder.until(("begin", "compute", 0))
    closing = threading.Thread(target=pipeline.close)
    closing.start()
    while not pipeline._closed:
        time.sleep(0.002)
    gate.set()
    closing.join(30)
    assert recorder.order("end", "compute") == [0]
    assert recorder.order("begin", "write") == []
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(0)


def test_the_guard_stops_a_shard_before_it_is_read_and_before_it_is_written():
    calls = []

    def guard():
        calls.append(len(recorder.events))
        if len(calls) == 2:
            raise FencedError("taken over")

    recorder = Recorder()
    with pytest.raises(FencedError, match="taken over"):
        list(LocalExecutor().run(lambda: recorder, SHARDS[:1], guard))
    assert recorder.order("end", "compute") == [0]
    assert recorder.order("begin", "write") == []
    assert calls == [0, 4]


def test_an_error_of_making_the_worker_is_one_of_the_shard():
    def make():
        raise ValueError("no such map")

    with pytest.raises(PassError, match=r"rows 0\.\.1 failed 3 times, last with ValueError: no such map"):
        list(LocalExecutor().run(make, SHARDS))


def test_computing_is_held_to_one_thread_and_released():
    import numpy as np
    from threadpoolctl import threadpool_info

    def counts():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    class Looker(Recorder):
        def compute(self, shard, data):
            np.ones((4, 4)) @ np.ones((4, 4))
            found.append(counts())

        def write(self, shard, result):
            return {}

    found, before = [], counts()
    list(LocalExecutor().run(Looker, SHARDS[:2]))
    assert found == [{1}, {1}]
    assert counts() == before


def test_peak_memory_sees_what_was_touched():
    before = peak_memory()
    block = bytearray(b"x" * (64 << 20))
    assert peak_memory() >= before
    assert peak_memory() > len(block)
