"""Workers of a run that was replaced write nothing any more, wherever they are."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from upath import UPath

from skysom.cluster.errors import FencedError, LockedError
from skysom.cluster.fence import Guard
from skysom.cluster.lock import OutputLock
from skysom.storage.place import place, remove_tree

COMMIT = """
import pickle, sys, time
guard = pickle.loads(bytes.fromhex(sys.argv[1]))
with open(sys.argv[2], "a") as file:
    while True:
        guard()
        file.write(f"{guard.epoch}\\n")
        file.flush()
        time.sleep(0.01)
"""


@pytest.fixture(params=["local", "s3"])
def private(request, tmp_path):
    """The private directory of an output."""
    root = place(tmp_path) if request.param == "local" else place(request.getfixturevalue("s3"))
    return root / "out" / ".skysom"


def test_a_guard_lets_pass_while_its_run_owns_the_output(private):
    with OutputLock(private / "lock") as lock:
        guards = [replace(lock.guard(), every_s=0), Guard(private, lock.epoch, every_s=0)]
        for guard in (*guards, pickle.loads(pickle.dumps(guards[0]))):
            guard()
    for guard in guards:
        with pytest.raises(FencedError, match=r"this run \(epoch 1\) has ended and released"):
            guard()


def test_a_guard_stops_the_workers_of_a_run_that_was_replaced(private):
    with OutputLock(private / "lock"):
        old = Guard(private, 1, every_s=0)
        old()
    with OutputLock(private / "lock") as lock:
        words = rf"another run \(epoch 2, this one is 1\) has taken over {private.parent}: this worker stops"
        with pytest.raises(FencedError, match=words):
            old()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(lock.guard()).result(60)
            with pytest.raises(FencedError, match=words):
                pool.submit(old).result(60)


def test_an_answer_is_good_for_a_while(private):
    with OutputLock(private / "lock"):
        patient, eager = Guard(private, 1, every_s=1e6), Guard(private, 1, every_s=0)
        patient()
        eager()
    patient()
    with pytest.raises(FencedError):
        eager()


def test_a_directory_that_was_made_anew_is_another(private):
    with OutputLock(private / "lock") as lock:
        old = lock.guard()
    remove_tree(private.parent)
    with OutputLock(private / "lock") as lock:
        assert lock.epoch == 1
        lock.guard()()
        with pytest.raises(FencedError, match=r"another run \(also of epoch 1\) has made .* anew"):
            old()
    remove_tree(private.parent)
    with pytest.raises(FencedError, match="its mark is gone"):
        Guard(private, 1, every_s=0)()


def test_a_silent_store_stops_the_worker_at_the_deadline_and_nobody_locks_it(caplog, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    nobody = {"endpoint_url": "http://127.0.0.1:9", "key": "test", "secret": "test", "use_listings_cache": False}
    private = UPath("s3://bucket/out/.skysom", **nobody)
    with pytest.raises(FencedError, match=r"cannot be read .*127.0.0.1:9.*run the same command again"):
        Guard(private, 1, deadline_s=0.3)()
    with pytest.raises(LockedError, match=r"cannot lock .*did not answer"), OutputLock(private / "lock", wait_s=0.3):
        pass
    assert "does not answer" in caplog.text, "it was given up at once"


def test_a_worker_that_outlives_its_run_commits_nothing_more(tmp_path):
    private = tmp_path / "out" / ".skysom"
    path, commits = private / "lock", tmp_path / "commits"
    hold = (
        "import sys\nfrom pathlib import Path\nfrom skysom.cluster.lock import OutputLock\n"
        "lock = OutputLock(Path(sys.argv[1])).__enter__()\nprint('held', flush=True)\nsys.stdin.read()"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    worker = None
    try:
        assert driver.stdout.readline().strip() == "held"
        old = pickle.dumps(Guard(private, 1, every_s=0)).hex()
        worker = subprocess.Popen([sys.executable, "-c", COMMIT, old, str(commits)], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not (commits.exists() and len(commits.read_text().split()) > 3):
            assert time.monotonic() < deadline
            assert worker.poll() is None
            time.sleep(0.01)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        with OutputLock(path) as lock:
            assert lock.epoch == 2
            _, errors = worker.communicate(timeout=60)
            assert worker.returncode == 1
            assert "FencedError: another run (epoch 2, this one is 1) has taken over" in errors
            lock.check()
    finally:
        for process in filter(None, (driver, worker)):
            process.kill()
            process.wait()
        driver.stdin.close()
        driver.stdout.close()


def test_a_guard_is_small_and_names_nothing_but_the_place(tmp_path):
    guard = Guard(Path("out/.skysom"), 3)
    assert pickle.loads(pickle.dumps(guard)) == guard
    assert hash(guard) == hash(Guard(Path("out/.skysom"), 3))
