"""The pass: the same results on both executors, retries, resume, refusals."""

import importlib.util
from pathlib import Path

import pytest

from skysom.cluster.errors import LedgerError, PassError
from skysom.cluster.executors import LocalExecutor, RayExecutor
from skysom.cluster.ledger import Ledger
from skysom.cluster.shards import SMALL_SHARDS, Runtime, run_pass

_spec = importlib.util.spec_from_file_location("pass_workers", Path(__file__).with_name("workers.py"))
workers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(workers)

SHARDS = [(first, first + 10) for first in range(0, 60, 10)]
EXECUTORS = {"local": Runtime(1, "local"), "ray": Runtime(3, "ray")}


@pytest.fixture(scope="module", autouse=True)
def _workers_travel():
    """Ray pickles the worker classes by value: their module is not importable in another process."""
    import sys

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
    assert attempts(tmp_path, (20, 30)) == 2


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


def test_executor_choice():
    assert isinstance(Runtime(1).executor_for(1000), LocalExecutor)
    assert isinstance(Runtime(4).executor_for(SMALL_SHARDS - 1), LocalExecutor)
    assert isinstance(Runtime(4).executor_for(SMALL_SHARDS), RayExecutor)
    assert isinstance(Runtime(1, "ray").executor_for(1), RayExecutor)
    assert isinstance(Runtime(1, ray_address="auto").executor_for(1), RayExecutor)
    assert isinstance(Runtime(8, "local").executor_for(1000), LocalExecutor)
