"""Collations that are killed: `python collate_killed.py FOLDER SEED POINTS`, in a process that tests start.

Every run is a fork of this process. A run is killed before or after one of its writes: a file that gets its name, a
line that is appended, a file or folder that is removed. POINTS are shares of all these, such as "0.1,0.7", or "all".
For each a collation is killed, run again and compared with an undisturbed one; then the same with new corrections.
What was killed is printed, a line each.
"""

import importlib.util
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

from skysom.jobs.collation.collate import CollateSettings, collate
from skysom.storage import jsonlines, place

spec = importlib.util.spec_from_file_location("random_skies", Path(__file__).with_name("random_skies.py"))
random_skies = sys.modules["random_skies"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(random_skies)


class Killer:
    """Counts writes of this process; SIGKILL at the chosen one, before it for even numbers, after it for odd ones."""

    def __init__(self, point):
        self.point, self.count = point, 0

    def wrap(self, owner, name):
        function = getattr(owner, name)

        def counted(*arguments, **keywords):
            self._step()
            result = function(*arguments, **keywords)
            self._step()
            return result

        setattr(owner, name, counted)

    def _step(self):
        if self.count == self.point:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def run(folder, output, inputs, point=-1):
    """Collate in a fork of this process that is killed at a point; how it ended, and how many points it passed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            killer = Killer(point)
            for owner, name in ((Path, "replace"), (jsonlines._Local, "append"), (shutil, "rmtree"), (place, "remove")):
                killer.wrap(owner, name)
            sys.stderr = (folder / "said.txt").open("w")
            collate(inputs, output, CollateSettings(rows_per_box=25, threads=2))
            os.write(write, str(killer.count).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(write)
    _, status = os.waitpid(child, 0)
    passed = os.read(read, 100).decode()
    os.close(read)
    return status, int(passed or 0)


def content(output):
    """Bytes of the tables."""
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.parquet"))}


def main(folder, seed, points):
    kind = random_skies.SkyKind(rows=60, centres=random_skies.CENTRES[:2], actions=("LINK", "DATA_ATTACH"), labels=2)
    inputs = random_skies.make(folder, seed, kind)
    corrected = random_skies.with_corrections(inputs, [(0, 1, 5)], [2])
    collate(inputs, folder / "warm", CollateSettings(threads=1))  # what is compiled and imported here, forks need not
    wanted, counts = {}, {}
    kinds = {"new": inputs, "corrected": corrected}
    for name, given in kinds.items():
        status, counts[name] = run(folder, folder / "whole", given)
        assert status == 0, (folder / "said.txt").read_text()
        wanted[name] = content(folder / "whole")
    assert wanted["new"] != wanted["corrected"]
    for number in range(counts["new"]) if points == "all" else range(points.count(",") + 1):
        output = folder / "killed"
        shutil.rmtree(output, ignore_errors=True)
        for name, given in kinds.items():
            point = number if points == "all" else int(float(points.split(",")[number]) * counts[name])
            if point >= counts[name]:
                continue
            status, _ = run(folder, output, given, point)
            assert status == signal.SIGKILL, (folder / "said.txt").read_text()
            status, _ = run(folder, output, given)
            assert status == 0, (folder / "said.txt").read_text()
            assert content(output) == wanted[name], f"{name}, killed at {point} of {counts[name]}: other tables"
            assert not list(output.rglob("*.partial"))
            sys.stdout.write(f"{name} killed at {point} of {counts[name]}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
