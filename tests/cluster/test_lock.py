"""One run an output; a killed owner holds nothing."""

import json
import os
import signal
import subprocess
import sys

import pytest

from skysom.cluster.errors import LockedError
from skysom.cluster.lock import OutputLock

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
