"""What history.jsonl says for the report: time and images of the stages, and the training curve of one map."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from skysom.jobs.report_words import as_float
from skysom.storage.jsonlines import JsonLines
from skysom.storage.place import Place


@dataclass
class StageTime:
    """Seconds spent in a stage, over all its runs, and the images processed in them."""

    seconds: float = 0.0
    images: float = 0.0


@dataclass
class WorkerTime:
    """What a worker did in a stage, over all runs; memory_bytes is the largest peak of a process of it."""

    host: str = ""
    device: str = ""
    images: float = 0.0
    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0
    memory_bytes: float = 0.0

    def add(self, values: dict[str, Any], images: float) -> None:
        self.host, self.device = str(values.get("host", "")), str(values.get("device", ""))
        self.images += max(images, 0.0)
        for step in ("read_s", "compute_s", "write_s"):
            setattr(self, step, getattr(self, step) + max(as_float(values.get(step, 0)), 0.0))
        self.memory_bytes = max(self.memory_bytes, as_float(values.get("memory_bytes", 0)))

    @property
    def busy_s(self) -> float:
        """Seconds of all steps together; they overlap."""
        return self.read_s + self.compute_s + self.write_s


@dataclass
class History:
    """Time by stage and by (stage, worker), and the events of the training that made the map, by images seen."""

    stages: dict[str, StageTime] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    workers: dict[tuple[str, str], WorkerTime] = field(default_factory=dict)


def read_history(path: Place, som: str, mapping: str) -> History:
    """The history of ``som`` and ``mapping`` and of the stages they share with other maps of the output.

    A missing file or a torn line is no error. Of a run that was killed, what its records cover is counted.
    """
    reader = _Reader(som, mapping)
    for event in events(path):
        reader.add(event)
    reader.interrupted()
    return History(reader.stages, reader.curve, reader.workers)


def events(path: Place) -> Iterator[dict[str, Any]]:
    """The events of a history.jsonl in order; what is no event is passed over."""
    for line in JsonLines(path).read(torn=True):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


@dataclass
class _Run:
    """One run of a stage, from its stage_start: what it has done so far and when that was recorded.

    A resumed training has images behind it that are not its own: it is followed from its first record on.
    """

    key: str
    started: datetime | None
    last: datetime | None
    images: float = 0.0
    first_seen: float | None = None

    def learned(self, seen: float, time: datetime | None) -> None:
        if self.first_seen is None:
            self.first_seen, self.started = seen, time
        self.images, self.last = seen - self.first_seen, time

    @property
    def seconds(self) -> float:
        return (self.last - self.started).total_seconds() if self.last and self.started else 0.0


class _Reader:
    """Walks the events. An output has one writer at a time, so at most one run of one stage is open."""

    def __init__(self, som: str, mapping: str) -> None:
        self.som, self.training_key = som, f"train:{som}"
        self.keys = {"ingest", "preprocess", "report", self.training_key, f"map:{mapping}"}
        self.stages: dict[str, StageTime] = {}
        self.workers: dict[tuple[str, str], WorkerTime] = {}
        self.curve: list[dict[str, Any]] = []
        self.run: _Run | None = None
        self.trained = False

    def add(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "stage_start":
            self._start(event)
        elif kind == "stage_end":
            self._end(event)
        elif kind == "shard" and self.run is not None:
            images = max(as_float(event.get("stop")) - as_float(event.get("start")), 0.0)
            self.run.images += images
            self.run.last = _time(event)
            if self.run.key in self.keys:
                self._work(str(event.get("worker", 0)), event, images)
        elif kind == "training" and event.get("som") == self.som:
            self._learn(event)

    def interrupted(self) -> None:
        """Close a run that has no stage_end."""
        run, self.run = self.run, None
        if run is not None and run.key in self.keys and run.images:
            self._count(run.key, run.seconds, run.images)

    def _start(self, event: dict[str, Any]) -> None:
        self.interrupted()
        key = str(event.get("key") or event.get("stage"))
        self.run = _Run(key, _time(event), _time(event))
        if key == self.training_key and self.trained:  # a finished training is never continued
            self.curve, self.trained = [], False

    def _learn(self, event: dict[str, Any]) -> None:
        """Training continues at a checkpoint before the last record, or starts again before the first."""
        seen = as_float(event.get("images_seen"))
        self.curve = [old for old in self.curve if as_float(old.get("images_seen")) < seen]
        self.curve.append(event)
        if self.run is not None and self.run.key == self.training_key:
            self.run.learned(seen, _time(event))
            workers = event.get("workers")
            for number, values in workers.items() if isinstance(workers, dict) else ():
                if isinstance(values, dict):
                    self._work(str(number), values, as_float(values.get("images", 0)))

    def _work(self, worker: str, values: dict[str, Any], images: float) -> None:
        assert self.run is not None
        own = self.workers.setdefault((self.run.key.partition(":")[0], worker), WorkerTime())
        own.add(values, images)

    def _end(self, event: dict[str, Any]) -> None:
        key = str(event.get("key") or event.get("stage"))
        run, self.run = self.run, None
        if key not in self.keys:
            return
        images = run.images if run is not None and run.key == key else 0.0
        if key == self.training_key:
            self.trained = True
            images = as_float(event.get("presentations", event.get("images")))
        self._count(key, as_float(event.get("seconds")), images)

    def _count(self, key: str, seconds: float, images: float) -> None:
        total = self.stages.setdefault(key.partition(":")[0], StageTime())
        total.seconds += seconds if seconds > 0 else 0.0  # not NaN
        total.images += images if images > 0 else 0.0


def _time(event: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return None
