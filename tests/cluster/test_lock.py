"""One run an output; a killed owner holds nothing, on a file system and in an object store."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from skysom.cluster import marks
from skysom.cluster.errors import FencedError, LockedError
from skysom.cluster.lock import FENCE, OutputLock, hold_fence
from skysom.storage.place import entries, place, read_bytes, remove, write_atomically

ELSEWHERE = {"pid": 1, "host": "elsewhere", "since": "2026-01-01"}


@pytest.fixture(params=["local", "s3"])
def path(request, tmp_path):
    """Where a lock is to be."""
    root = place(tmp_path) if request.param == "local" else place(request.getfixturevalue("s3"))
    return root / "out" / ".skysom" / "lock"


@pytest.fixture
def atomic_store(monkeypatch):
    """The server looks whether an object is there and puts it in two steps; the stores it stands for do it in one."""
    from moto.s3.responses import S3Response

    one_at_a_time, put = threading.Lock(), S3Response.put_object

    def put_object(self):
        with one_at_a_time:
            return put(self)

    monkeypatch.setattr(S3Response, "put_object", put_object)


class Locker:
    """A process of locker.py."""

    def __init__(self, host: str = "here", lease_s: float = 60.0) -> None:
        script = str(Path(__file__).with_name("locker.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, host, str(lease_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> str:
        self.ask(line)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def lockers():
    """Make Lockers that are gone after the test."""
    made = []

    def make(*args, **named):
        made.append(Locker(*args, **named))
        return made[-1]

    yield make
    for locker in made:
        locker.kill()
        locker.process.stdin.close()
        locker.process.stdout.close()


def write_lock(path, **more):
    """Leave a lock at ``path`` as another host would."""
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(ELSEWHERE | more).encode())


def test_a_second_run_is_refused_while_the_first_lives(path, lockers):
    holder = lockers()
    assert holder.say(f"lock {path}") == "won 1"
    words = f"{path.parent.parent} is in use by process {holder.process.pid} on "
    for _ in range(2):
        with pytest.raises(LockedError, match=words), OutputLock(path):
            pass
    assert holder.say("check") == "fine"
    assert holder.say("lost") == "False"
    assert holder.say("free") == "freed"
    with OutputLock(path) as lock:
        assert (lock.epoch, lock.taken_over) == (2, "")


def test_the_lock_of_a_killed_run_is_taken_over_at_once(path, lockers):
    holder = lockers()
    assert holder.say(f"lock {path}") == "won 1"
    os.kill(holder.process.pid, signal.SIGKILL)
    assert json.loads(read_bytes(path))["pid"] == holder.process.pid
    deadline = time.monotonic() + 30
    while True:  # a signal takes a moment to arrive
        try:
            lock = OutputLock(path, lease_s=1e6).__enter__()
            break
        except LockedError:
            assert time.monotonic() < deadline
    assert f"was locked by process {holder.process.pid} on " in lock.taken_over
    assert lock.epoch == 2
    assert json.loads(read_bytes(path))["pid"] == os.getpid()
    lock.__exit__(None, None, None)
    assert read_bytes(path) == b""
    assert [found.name for found in entries(path.parent) if found.name != FENCE] == ["epoch.2", "lock"]


def test_the_lock_of_another_host_that_is_renewed_is_respected(path, lockers):
    holder = lockers("elsewhere", lease_s=4.0)
    assert holder.say(f"lock {path}") == "won 1"
    told = []
    for _ in range(2):
        with (
            pytest.raises(LockedError, match=r"in use by process .* on elsewhere"),
            OutputLock(path, on_wait=told.append),
        ):
            pass
    assert "waiting up to 4 s to see whether that run still lives" in told[0]
    assert holder.say("check") == "fine"
    holder.kill()
    with OutputLock(path, lease_s=1e6) as lock:  # the lease is that of the owner
        assert lock.epoch == 2
        assert "on elsewhere since" in lock.taken_over


def test_a_lock_written_by_hand_is_taken_over_after_the_lease(path):
    write_lock(path)
    with OutputLock(path, lease_s=0.5) as lock:
        assert lock.taken_over.startswith(f"{path.parent.parent} was locked by process 1 on elsewhere since 2026-01-01")
    write_lock(path, epoch=41)
    with OutputLock(path, lease_s=0.5) as lock:
        assert lock.epoch == 42


def test_a_lock_written_by_hand_is_respected_while_it_changes(path):
    write_lock(path)
    done = threading.Event()

    def renew():
        for count in range(10**6):
            write_lock(path, renewals=count)
            if done.wait(0.2):
                return

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(LockedError, match="process 1 on elsewhere"), OutputLock(path, lease_s=5.0):
            pass
    finally:
        done.set()
        thread.join()


def test_a_lock_torn_by_a_kill_is_no_obstacle(path):
    write_lock(path)
    write_atomically(path, b'{"pid": 1, "ho')
    with OutputLock(path):
        pass


@pytest.mark.parametrize("hosts", ["one", "several"])
def test_of_newcomers_at_the_same_moment_exactly_one_wins(path, lockers, atomic_store, hosts):
    crew = [lockers("here" if hosts == "one" else f"host-{number}", lease_s=4.0) for number in range(3)]
    dead = lockers("here", lease_s=0.5)
    left = ["nothing", "nothing", "released", "dead", "dead elsewhere"]
    for trial, before in enumerate(left):
        lock = path.parent.parent / str(trial) / ".skysom" / "lock"
        if before == "released":
            with OutputLock(lock):
                pass
        elif before == "dead":
            assert dead.say(f"lock {lock}") == "won 1"
            dead.kill()
        elif before == "dead elsewhere":
            write_lock(lock, lease_s=0.5)
        for locker in crew:
            locker.ask(f"lock {lock}")
        answers = [locker.answer() for locker in crew]
        winners = [locker for locker, answer in zip(crew, answers, strict=True) if answer.startswith("won")]
        assert len(winners) == 1, answers
        assert all(f"process {winners[0].process.pid}" in answer for answer in answers if "refused" in answer), answers
        assert winners[0].say("check") == "fine"
        assert winners[0].say("guard") == "fine"
        assert winners[0].say("free") == "freed"


def test_the_epoch_grows_by_one_and_never_repeats(path, lockers):
    for epoch in (1, 2):
        with OutputLock(path) as lock:
            assert lock.epoch == epoch
    remove(path)  # by hand
    killed = lockers("here", lease_s=0.5)
    assert killed.say(f"lock {path}") == "won 3"
    killed.kill()
    remove(path)
    with OutputLock(path) as lock:
        assert lock.epoch == 4


def test_the_epoch_does_not_repeat_where_marks_are_deleted_by_hand(path, lockers):
    holder = lockers("here", lease_s=0.5)
    assert holder.say(f"lock {path}") == "won 1"
    remove(marks.mark_of(path.parent, 1))
    assert "refused this run (epoch 1) does not own" in holder.say("guard")
    holder.kill()
    with OutputLock(path) as lock:
        assert lock.epoch == 2


def test_a_paused_owner_finds_that_it_was_replaced(path, lockers):
    holder = lockers("elsewhere", lease_s=0.8)
    assert holder.say(f"lock {path}") == "won 1"
    os.kill(holder.process.pid, signal.SIGSTOP)
    with OutputLock(path) as lock:
        os.kill(holder.process.pid, signal.SIGCONT)
        assert "refused another run has taken over" in holder.say("check")
        assert "refused another run (epoch 2, this one is 1) has taken over" in holder.say("guard")
        assert holder.say("lost") == "True"
        assert holder.say("free") == "freed"
        lock.check()
        lock.guard()()
        assert json.loads(read_bytes(path))["epoch"] == 2, "the old owner wrote over the lock of the new one"


def test_a_paused_owner_that_nobody_replaced_goes_on(path, lockers):
    holder = lockers("elsewhere", lease_s=0.4)
    assert holder.say(f"lock {path}") == "won 1"
    os.kill(holder.process.pid, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(holder.process.pid, signal.SIGCONT)
    assert holder.say("check") == "fine"
    assert holder.say("free") == "freed"


def test_an_owner_that_cannot_renew_stops(tmp_path):
    path = tmp_path / "out" / ".skysom" / "lock"
    with OutputLock(path, lease_s=0.4) as lock:
        path.unlink()
        path.mkdir()  # nothing can be renamed onto a directory
        deadline = time.monotonic() + 30
        while not lock.lost:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(FencedError, match=r"could not be renewed for .* s .*run the same command again"):
            lock.check()
        path.rmdir()
        lock.check()
        assert not lock.lost
    assert path.read_text() == ""


def test_what_cannot_be_locked_says_so(tmp_path, s3):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LockedError, match=r"cannot lock .*choose another --output"),
        OutputLock(tmp_path / "file/x/lock"),
    ):
        pass
    with (
        pytest.raises(LockedError, match=r"cannot lock .*does not exist"),
        OutputLock(place("s3://no-bucket/x/p/lock")),
    ):
        pass


def test_a_store_that_ignores_conditions_is_refused(s3, monkeypatch):
    from moto.s3.responses import S3Response

    put = S3Response.put_object

    def put_object(self):
        self.headers = {name: value for name, value in self.headers.items() if name.lower() != "if-none-match"}
        return put(self)

    monkeypatch.setattr(S3Response, "put_object", put_object)
    with pytest.raises(LockedError, match="ignores the condition If-None-Match"), OutputLock(place(f"{s3}/x/p/lock")):
        pass


def test_a_living_worker_of_an_earlier_run_keeps_the_next_one_waiting(tmp_path):
    path = tmp_path / "out" / ".skysom" / "lock"
    path.parent.mkdir(parents=True)
    with hold_fence(path.with_name(FENCE)), hold_fence(path.with_name(FENCE)):
        words = rf"worker processes .* still use {tmp_path / 'out'} after 0 s.*{os.getpid()} on "
        with pytest.raises(LockedError, match=words), OutputLock(path, wait_s=0.2):
            pass
        assert path.read_text() == "", "a run that was refused does not own the output"
    with OutputLock(path, wait_s=0.2), hold_fence(path.with_name(FENCE)) as mine:
        mine.seek(0)
        assert len(mine.read().splitlines()) == 1, "the workers of earlier runs are still named"


def test_two_runs_never_write_at_the_same_time_although_workers_outlive_a_killed_driver(tmp_path):
    script = Path(__file__).with_name("driver.py")
    beats = tmp_path / "beats"
    first = subprocess.Popen([sys.executable, str(script), str(tmp_path), "ray", "200"])
    deadline = time.monotonic() + 60
    while not beats.exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    # In process, because it would begin to write at once; Ray takes seconds to start.
    subprocess.run([sys.executable, str(script), str(tmp_path), "local", "5"], check=True, timeout=120)
    lines = beats.read_text().split()
    assert lines.count("local") >= 5
    assert "ray" not in lines[lines.index("local") :]


@pytest.mark.parametrize("die", [[], ["20"]])
def test_ray_prints_nothing(tmp_path, die):
    script = Path(__file__).with_name("driver.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "ray", "0", *die], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == [f"shard-{first}" for first in range(0, 60, 10)]
