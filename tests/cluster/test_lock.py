"""One run an output; a killed owner holds nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skysom.cluster.errors import LockedError
from skysom.cluster.lock import FENCE, OutputLock, hold_fence

HOLD = """
import sys, time
from pathlib import Path
from skysom.cluster.lock import OutputLock
with OutputLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out" / ".skysom" / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "held"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_refused_while_the_first_lives(tmp_path, holder):
    with (
        pytest.raises(LockedError, match=f"in use by process {holder.pid}"),
        OutputLock(tmp_path / "out" / ".skysom" / "lock"),
    ):
        pass


def test_the_lock_of_a_killed_run_is_taken_over_at_once(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    path = tmp_path / "out" / ".skysom" / "lock"
    assert json.loads(path.read_text())["pid"] == holder.pid
    with OutputLock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_text() == ""


def test_the_lock_of_another_host_is_respected(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "2026-01-01"}))
    with pytest.raises(LockedError, match="host elsewhere"), OutputLock(path):
        pass


def test_a_lock_file_torn_by_a_kill_is_no_obstacle(tmp_path):
    path = tmp_path / "lock"
    path.write_text('{"pid": 1, "ho')
    with OutputLock(path):
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
