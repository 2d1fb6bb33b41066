"""The pass: the same results on both executors, retries, resume, refusals."""

import importlib.util
from pathlib import Path

import pytest

from skysom.cluster.errors import FencedError, LedgerError, PassError
from skysom.cluster.executors import LocalExecutor
from skysom.cluster.ledger import Ledger
from skysom.cluster.ray_executor import RayExecutor, start_ray
from skysom.cluster.shards import ERROR_LOG, ERROR_LOG_BYTES, SMALL_SHARDS, Runtime, run_pass

_spec = importlib.util.spec_from_file_location("pass_workers", Path(__file__).with_name("workers.py"))
workers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(workers)

SHARDS = [(first, first + 10) for first in range(0, 60, 10)]
PAUSES_S = (0.0, 0.01, 0.02)
EXECUTORS = {"local": Runtime(1, "local", pauses_s=PAUSES_S), "ray": Runtime(3, "ray", pauses_s=PAUSES_S)}


@pytest.fixture(scope="module", autouse=True)
def _workers_travel():
    """Ray pickles the worker classes by value: their module is not importable in another process."""
    import sys

    start_ray(3, None)  # before ray is imported: it reads its settings for quiet then

    from ray import cloudpickle

    sys.modules["pass_workers"] = workers
    cloudpickle.register_pickle_by_value(workers)
    yield
    cloudpickle.unregister_pickle_by_value(workers)
    del sys.modules["pass_workers"]


@pytest.fixture(params=EXECUTORS)
def runtime(request):
    return EXECUTORS[request.param]


def attempts(folder, shard):
    path = folder / f"attempts-{shard[0]}"
    return len(path.read_text()) if path.exists() else 0


def test_every_shard_is_done_once_and_counted_in_order(tmp_path, runtime):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    events = []
    make = workers.Make(workers.FileWorker(tmp_path))
    counts = run_pass("x", SHARDS, make, ledger=ledger, config="c", runtime=runtime, on_event=events.append)
    assert counts == [{"rows": 10}] * len(SHARDS)
    assert [attempts(tmp_path, shard) for shard in SHARDS] == [1] * len(SHARDS)
    assert [event.images for event in events] == [0, 10, 20, 30, 40, 50, 60]
    assert Ledger(tmp_path / "ledger.jsonl").done("x", "c").keys() == set(SHARDS)


def test_failures_are_tried_again(tmp_path, runtime):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    make = workers.Make(workers.FileWorker(tmp_path, fail=2))
    run_pass("x", SHARDS, make, ledger=ledger, config="c", runtime=runtime)
    assert [attempts(tmp_path, shard) for shard in SHARDS] == [3, 1, 1, 3, 1, 1]


def test_a_shard_that_always_fails_stops_the_pass_with_its_cause_and_keeps_the_rest(tmp_path, runtime):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    make = workers.Make(workers.FileWorker(tmp_path, fail=99))
    with pytest.raises(PassError, match=r"failed 3 times.*OSError: attempt 3 fails.*run the same command again"):
        run_pass("x", SHARDS, make, ledger=ledger, config="c", runtime=runtime)
    log = (tmp_path / ERROR_LOG).read_text()
    assert 'raise self.error(f"attempt {count} fails")' in log, "the traceback has the line that failed"
    assert "\x1b" not in log
    done = set(Ledger(tmp_path / "ledger.jsonl").done("x", "c"))
    again = workers.Make(workers.FileWorker(tmp_path))
    run_pass("x", SHARDS, again, ledger=Ledger(tmp_path / "ledger.jsonl"), config="c", runtime=runtime)
    for shard in done:
        assert attempts(tmp_path, shard) == 1, "a finished shard was touched again"


def test_a_killed_worker_loses_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    make = workers.Make(workers.FileWorker(tmp_path, die=20))
    counts = run_pass("x", SHARDS, make, ledger=ledger, config="c", runtime=EXECUTORS["ray"])
    assert counts == [{"rows": 10}] * len(SHARDS)
    tries = [attempts(tmp_path, shard) for shard in SHARDS]
    assert tries[2] == 2
    assert sum(tries) <= len(SHARDS) + 1, "only one shard is computed at a time, so only one was begun twice"


def test_only_the_shard_that_kills_its_worker_is_charged(tmp_path):
    make = workers.Make(workers.FileWorker(tmp_path, die=0, always=True))
    with pytest.raises(PassError, match=r"rows 0\.\.10 failed 3 times, last with the death of its worker process"):
        list(RayExecutor(1).run(make, SHARDS))
    # Once in company, when all are suspects, and three times alone.
    assert attempts(tmp_path, SHARDS[0]) == 4
    assert all(attempts(tmp_path, shard) <= 1 for shard in SHARDS[1:])
    (tmp_path / "attempts-0").unlink()
    (tmp_path / "steps").unlink()
    # With one attempt a shard, those in flight with it would be spent if they were charged.
    make = workers.Make(workers.FileWorker(tmp_path, die=0))
    results = list(RayExecutor(1, attempts=1).run(make, SHARDS))
    assert sorted(result.shard for result in results) == SHARDS
    tries = {result.shard[0]: result.attempts for result in results}
    suspects = {first for first, begun in tries.items() if begun > 1}
    assert 0 in suspects
    assert len(suspects) > 1, "nothing was in flight behind the shard that killed"
    assert set(tries.values()) <= {1, 2}
    # While a suspect is tried, its worker has nothing else in flight.
    last = workers.steps(tmp_path)[-1][2]
    mine = [(step, first) for step, first, pid, _ in workers.steps(tmp_path) if pid == last]
    for first in suspects:
        place = mine.index(("read", first))
        assert mine[place + 1] == ("write", first)


@pytest.fixture
def occupy():
    """Return a function that takes CPUs of the running cluster, and one that gives one back."""
    import ray

    ray.shutdown()  # an actor killed by an earlier test may still hold a CPU
    start_ray(3, None)

    @ray.remote(num_cpus=1)
    class Hog:
        def ready(self):
            return True

    hogs = []

    def take(free):
        hogs.extend(Hog.remote() for _ in range(int(ray.cluster_resources()["CPU"]) - free))
        ray.get([hog.ready.remote() for hog in hogs], timeout=60)

    yield take, lambda: ray.kill(hogs.pop())
    for hog in hogs:
        ray.kill(hog)


def test_shards_go_to_workers_that_have_started_and_late_ones_join(tmp_path, occupy):
    take, give_back = occupy
    take(1)
    make = workers.Make(workers.FileWorker(tmp_path, beats=10))
    shards = [(first, first + 1) for first in range(40)]
    seen = []
    for result in RayExecutor(2, "auto", deadline_s=30, start_deadline_s=60).run(make, shards):
        seen.append(result)
        if len(seen) == 5:
            assert len({result.worker for result in seen}) == 1
            give_back()
    assert sorted(result.shard for result in seen) == shards
    assert {result.worker for result in seen} == {0, 1}


def test_a_full_cluster_is_an_error_that_says_so(tmp_path, occupy):
    take, _ = occupy
    take(0)
    make = workers.Make(workers.FileWorker(tmp_path))
    with pytest.raises(PassError, match="no worker started in 1 s: Ray has 0 free CPUs and 3 are wanted"):
        list(RayExecutor(3, "auto", start_deadline_s=1).run(make, SHARDS))


def test_the_error_log_is_bounded(tmp_path):
    (tmp_path / ERROR_LOG).write_bytes(b"x" * ERROR_LOG_BYTES)
    make = workers.Make(workers.FileWorker(tmp_path, fail=99))
    with pytest.raises(PassError, match=ERROR_LOG):
        run_pass("x", SHARDS, make, ledger=Ledger(tmp_path / "l"), config="c", runtime=EXECUTORS["local"])
    assert (tmp_path / ERROR_LOG).stat().st_size == ERROR_LOG_BYTES
    assert "OSError" in (tmp_path / ERROR_LOG).read_text()[-200:]


def test_resume_does_only_what_is_missing(tmp_path, runtime):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    make = workers.Make(workers.FileWorker(tmp_path))
    run_pass("x", SHARDS[:2], make, ledger=ledger, config="c", runtime=runtime)
    counts = run_pass("x", SHARDS, make, ledger=Ledger(tmp_path / "ledger.jsonl"), config="c", runtime=runtime)
    assert [attempts(tmp_path, shard) for shard in SHARDS] == [1] * len(SHARDS)
    assert len(counts) == len(SHARDS)


def test_another_configuration_is_refused(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    make = workers.Make(workers.FileWorker(tmp_path))
    run_pass("x", SHARDS[:1], make, ledger=ledger, config="c", runtime=Runtime())
    with pytest.raises(LedgerError, match=r"configuration c, this run has d.*--redo"):
        run_pass("x", SHARDS, make, ledger=ledger, config="d", runtime=Runtime())


def test_executor_choice(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert isinstance(Runtime(1).executor_for(1000), LocalExecutor)
    assert isinstance(Runtime(4).executor_for(SMALL_SHARDS - 1), LocalExecutor)
    assert isinstance(Runtime(4).executor_for(SMALL_SHARDS), RayExecutor)
    assert isinstance(Runtime(1, "ray").executor_for(1), RayExecutor)
    assert isinstance(Runtime(1, ray_address="auto").executor_for(1), RayExecutor)
    assert isinstance(Runtime(8, "local").executor_for(1000), LocalExecutor)
    assert isinstance(Runtime(1, gpus_per_worker=0.5).executor_for(1), RayExecutor)
    with pytest.raises(PassError, match=r"0\.5 GPUs a worker are placed by Ray.*--executor ray"):
        Runtime(1, "local", gpus_per_worker=0.5).executor_for(1)


def test_the_cluster_of_the_environment_is_used_unless_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert Runtime(1).executor_for(1, tmp_path / "fence") == RayExecutor(1, "head:6379")
    assert Runtime(None, ray_address="other:1").executor_for(1).address == "other:1"
    assert isinstance(Runtime(1, "local").executor_for(1), LocalExecutor)
    monkeypatch.delenv("RAY_ADDRESS")
    assert Runtime(2).executor_for(99, tmp_path / "fence").fence == tmp_path / "fence"


@pytest.mark.parametrize("kind", EXECUTORS)
def test_a_full_disk_stops_the_pass_at_once_and_says_so(tmp_path, kind):
    make = workers.Make(workers.FileWorker(tmp_path, full=30))
    ledger = Ledger(tmp_path / "private/ledger.jsonl")
    words = r"disk full on .* at rows 30\.\.40: .*No space left.*free some space.*run the same command again"
    with pytest.raises(PassError, match=words):
        run_pass("x", SHARDS, make, ledger=ledger, config="c", runtime=EXECUTORS[kind])
    assert attempts(tmp_path, (30, 40)) == 1
    counts = run_pass("x", SHARDS, workers.Make(workers.FileWorker(tmp_path)), ledger=ledger, config="c",
                      runtime=EXECUTORS[kind])  # fmt: skip
    assert counts == [{"rows": 10}] * len(SHARDS)


@pytest.mark.parametrize("kind", EXECUTORS)
def test_an_output_taken_over_is_not_written_to(tmp_path, kind):
    make = workers.Make(workers.FileWorker(tmp_path, slow=0.5))
    ledger = Ledger(tmp_path / "private/ledger.jsonl")

    def take(event):
        if event.result is not None:
            (tmp_path / "taken").touch()

    guard = workers.FileGuard(tmp_path)
    with pytest.raises(FencedError, match="taken over"):
        run_pass("x", SHARDS, make, ledger=ledger, config="c", runtime=EXECUTORS[kind], guard=guard, on_event=take)
    taken = (tmp_path / "taken").stat().st_mtime_ns
    # A shard that had passed the guard at that moment is still written.
    written = [path for path in tmp_path.glob("shard-*") if path.stat().st_mtime_ns > taken + 4e8]
    assert not written
    assert 1 <= len(Ledger(tmp_path / "private/ledger.jsonl").done("x", "c")) < len(SHARDS)


def test_a_pause_of_one_shard_does_not_hold_up_others(tmp_path):
    make = workers.Make(workers.FileWorker(tmp_path, fail=1))
    results = [result.shard[0] for result in LocalExecutor(pauses_s=(0.0, 0.5)).run(make, SHARDS)]
    assert sorted(results[:4]) == [10, 20, 40, 50]
    assert sorted(results[4:]) == [0, 30]
    errors = workers.Make(workers.FileWorker(tmp_path / "other", fail=1, error=ValueError))
    (tmp_path / "other").mkdir()
    assert len(list(LocalExecutor(pauses_s=(0.0, 1e9)).run(errors, SHARDS))) == len(SHARDS), "only for the store"


@pytest.mark.parametrize("kind", EXECUTORS)
def test_results_say_where_and_how_long(tmp_path, kind):
    import socket

    events = []
    ledger = Ledger(tmp_path / "ledger.jsonl")
    make = workers.Make(workers.FileWorker(tmp_path, slow=0.05))
    run_pass("x", SHARDS, make, ledger=ledger, config="c", runtime=EXECUTORS[kind], on_event=events.append)
    for event in events[1:]:
        result = event.result
        assert result.host == socket.gethostname()
        assert result.device == "cpu"
        assert result.memory_bytes > 10e6
        assert result.compute_s >= 0.05
        assert result.seconds == result.read_s + result.compute_s + result.write_s
