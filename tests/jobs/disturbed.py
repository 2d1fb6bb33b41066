"""Runs in processes of their own that tests kill, stop and look into; and what their outputs must be in the end."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import zarr

from skysom.jobs.output import Output
from skysom.storage.catalogue import read_catalogue
from skysom.storage.jsonlines import JsonLines
from skysom.storage.place import exists, place
from skysom.storage.survey import Survey

DEADLINE_S = 300.0
"""Longest wait for anything: generous, for a machine that is busy with other things."""
MAIN = "import sys; from skysom.jobs.cli import main; sys.exit(main(sys.argv[1:]))"

ARRAYS = {
    "ingest": ("images", "coverage", "status"),
    "preprocess": ("prepared", "channel_sum", "prepared_status", "ok"),
    "map:main": tuple(
        f"mappings/main/{name}"
        for name in ("distance", "rotation", "flip", "bmu_distance", "bmu_rotation", "bmu_flip", "bmu")
    ),
}
"""Arrays of each stage that goes over shards, in the order in which a shard of them is written."""
FIRST_AND_LAST = {
    # The last array that is written for every shard: chunks of nothing but fill values are not.
    "ingest": ("images/c/{}/0/0/0", "coverage/c/{}"),
    "preprocess": ("prepared/c/{}/0/0/0", "ok/c/{}"),
    "map:main": ("mappings/main/distance/c/{}/0", "mappings/main/bmu/c/{}"),
}


def until(condition, what, deadline_s=DEADLINE_S, every_s=0.01):
    """The first true value of ``condition()``; an assertion with ``what`` after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {deadline_s:.0f} s: {what}"
        time.sleep(every_s)
    return found


# --- processes ------------------------------------------------------------------------------------


class Run:
    """A command of skysom (or other code) in a session of its own; knows every process that descends from it."""

    def __init__(self, arguments, log: Path, code: str = MAIN):
        self.log, self._seen = log, {}
        with log.open("wb") as file:
            command = [sys.executable, "-c", code, *map(str, arguments)]
            self._popen = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        self.process = psutil.Process(self._popen.pid)

    @property
    def ended(self):
        return self._popen.poll() is not None

    @property
    def said(self):
        return self.log.read_text()

    def descendants(self):
        """Those that live, and were children of the driver's children at some look."""
        if not self.ended:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen |= {child.pid: child for child in self.process.children(recursive=True)}
        return [process for process in self._seen.values() if lives(process)]

    def actors(self):
        return [process for process in self.descendants() if is_actor(process)]

    def kill(self):
        """SIGKILL to the driver alone, what it started being noted first."""
        self.descendants()
        os.kill(self._popen.pid, signal.SIGKILL)
        self._popen.wait(DEADLINE_S)

    def wait(self, deadline_s=DEADLINE_S):
        """The exit status."""
        until(lambda: self.descendants() is None or self.ended, f"the run goes on: {self.said}", deadline_s, 0.05)
        return self._popen.returncode

    def close(self):
        """End whatever is left of it."""
        left = self.descendants()
        if not self.ended:
            self.kill()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_actor(process):
    """Whether this is a Ray worker process that holds a worker of a pass or of a training."""
    try:
        return process.cmdline()[0].startswith("ray::_Actor")
    except (psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
        return False


def kill_process(process):
    """SIGKILL, and wait until it is gone."""
    process.kill()
    until(lambda: not lives(process), f"{process} survives SIGKILL")


def stop_process(process):
    """SIGSTOP, and wait until it stands still; False where it is gone."""
    try:
        process.suspend()
        until(lambda: not lives(process) or process.status() == psutil.STATUS_STOPPED, f"{process} does not stop")
    except psutil.NoSuchProcess:
        return False
    return lives(process)


# --- an output ------------------------------------------------------------------------------------


def events(output, *kinds):
    """Events of the history."""
    found = map(json.loads, JsonLines(Output(output).history).read())
    return [event for event in found if not kinds or event["event"] in kinds]


def recorded(output):
    """Counts of the lines of the ledger: how often each (stage, start, stop) is there."""
    lines = map(json.loads, JsonLines(Output(output).private / "ledger.jsonl").read())
    return Counter((line["stage"], line["start"], line["stop"]) for line in lines)


def checkpoint_position(output):
    """(stage, iteration, image) of the training's checkpoint, or None where there is none."""
    try:
        with np.load(output / ".skysom/training-main.npz") as saved:
            return tuple(map(int, saved["position"]))
    except FileNotFoundError:
        return None


def half_written(output, stages, shards):
    """(stage, number) of the shards whose first array is there and whose last is not."""
    store, found = output / "survey.zarr", []
    for stage in stages:
        first, last = FIRST_AND_LAST[stage]
        found += [
            (stage, number)
            for number in range(shards)
            if (store / first.format(number)).exists() and not (store / last.format(number)).exists()
        ]
    return found


@dataclass(frozen=True)
class Snapshot:
    """What an output held when its run had died: what is missing, and the files of all shards that are not."""

    shards: Counter
    events: int
    position: tuple | None
    trained: bool
    files: dict = field(repr=False)

    @classmethod
    def of(cls, output, shard_images):
        shards, files = recorded(output), {}
        for stage, start, _ in shards:
            for array in ARRAYS[stage]:
                chunk = output / "survey.zarr" / array / "c" / str(start // shard_images)
                for path in [chunk] if chunk.is_file() else [p for p in chunk.rglob("*") if p.is_file()]:
                    if not path.name.endswith(".partial"):
                        files[path] = path.stat().st_ino, path.stat().st_mtime_ns
        trained = (output / "survey.zarr/soms/main").exists()
        return cls(shards, len(events(output)), checkpoint_position(output), trained, files)

    def touched(self):
        """Files of finished shards that were written again."""
        return [p for p, (ino, at) in self.files.items() if (p.stat().st_ino, p.stat().st_mtime_ns) != (ino, at)]


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its input, its output, and the flags of the command."""

    survey: Path
    output: Path
    flags: list
    images: int

    def command(self, output, *more):
        inputs = ["--images", self.survey, "--catalogue", self.survey / "sources.csv", "--output", output]
        return ["run", *map(str, inputs), *self.flags, *more]

    @property
    def shards(self):
        return Survey(self.output / "survey.zarr").shards()

    @property
    def presentations(self):
        return next(event["presentations"] for event in events(self.output, "stage_end") if event["stage"] == "train")

    def begin(self, output, stage):
        """Make ``output`` one whose stages before ``stage`` were done by an undisturbed run."""
        if stage == "ingest":
            return
        shutil.copytree(self.output, output)
        made = Output(output)
        with made.lock():
            made.discard(stage, "main")

    def assert_equal(self, output):
        """The output (path or URL) is that of the undisturbed run, array for array, each shard recorded once."""
        output = place(output)
        one, other = (Survey(path / "survey.zarr").group for path in (self.output, output))
        names, found = ({n for n, m in group.members(None) if isinstance(m, zarr.Array)} for group in (one, other))
        assert found == names
        assert len(names) > 15
        for name in sorted(names):
            whole, again = one[name][:], other[name][:]
            assert np.array_equal(whole, again, equal_nan=whole.dtype.kind == "f"), name
        tables = [read_catalogue(path / "catalogue.parquet") for path in (self.output, output)]
        pd.testing.assert_frame_equal(*tables)
        expected = Counter((stage, *shard) for stage in ARRAYS for shard in self.shards)
        assert recorded(output) == expected
        assert exists(output / "report.html")
        assert not exists(Output(output).checkpoint("main")), "the checkpoint of a finished training is still there"

    def assert_only_missing(self, output, before: Snapshot):
        """The run since ``before`` has done exactly what was missing then; returns its counts as a sentence."""
        new = events(output)[before.events :]
        done = Counter(
            (_stage(event["stage"]), event["start"], event["stop"]) for event in new if event["event"] == "shard"
        )
        missing = Counter((stage, *shard) for stage in ARRAYS for shard in self.shards)
        missing.subtract(before.shards)
        missing = +missing
        assert done == missing, f"done again {done - missing}, left out {missing - done}"
        assert not before.touched(), f"finished shards were written again: {before.touched()}"
        left = 0 if before.trained else self.presentations - self._presented(before.position)
        shown = sum(event.get("presentations", 0) for event in new if event["event"] == "stage_end")
        assert shown == left, f"{shown} images were presented, {left} were left"
        return f"{missing.total()} of {len(ARRAYS) * len(self.shards)} shards, {left} of {self.presentations} images"

    def _presented(self, position):
        if position is None:
            return 0
        stage, iteration, image = position
        return (stage + iteration) * self.images + image  # one iteration a stage


def _stage(name):
    return "map:main" if name == "map" else name
