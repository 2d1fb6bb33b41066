"""The output directory of a run: its paths, its history, and which configuration made which stage."""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from skysom.cluster.fence import Guard
from skysom.cluster.ledger import Ledger
from skysom.cluster.lock import OutputLock
from skysom.jobs.config import Config, flatten
from skysom.jobs.derived import makers, write_makers
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.progress import say
from skysom.jobs.results import MAPPING_COLUMNS, update_catalogue
from skysom.jobs.sweep import PREPARED_ARRAYS, READINGS, sweep
from skysom.storage import place as places
from skysom.storage.jsonlines import JsonLines
from skysom.storage.place import Place, place, remove_tree, write_atomically
from skysom.storage.survey import Survey

STAGES = ("ingest", "preprocess", "train", "map", "report")


class Output:
    """``DIR`` (a path or URL) and what is in it; write to it only while holding its `lock`.

    epoch: which acquisition of the output this is, while it is locked; guard: what its workers ask before
    they write (see OutputLock).
    """

    def __init__(self, root: str | Place) -> None:
        self.root = place(root)
        self.survey = self.root / "survey.zarr"
        self.catalogue = self.root / "catalogue.parquet"
        self.report = self.root / "report.html"
        self.history = self.root / "history.jsonl"
        self.private = self.root / ".skysom"
        self.epoch = 0
        self.guard: Guard | None = None
        self._history = JsonLines(self.history)

    def checkpoint(self, name: str) -> Place:
        """Where the training of map ``name`` saves itself."""
        return self.private / f"training-{name}.npz"

    @contextmanager
    def lock(self, *, create: bool = False) -> Iterator[None]:
        """Nobody else writes here meanwhile (LockedError while another run does).

        What an interrupted run left half-way is put right first. ``create`` makes the directory;
        without it a directory that no run has made is a MissingStageError.
        """
        if places.exists(self.root) and not places.is_dir(self.root):
            raise ConfigError(f"--output {self.root} is a file; give a directory")
        if not create and not places.is_dir(self.private):
            raise MissingStageError(f"{self.root} is no output of skysom; check --output, or start with `skysom run`")
        try:
            places.make_directory(self.private)
        except OSError as error:
            raise ConfigError(f"cannot write to --output {self.root}: {error.strerror}") from None
        with OutputLock(self.private / "lock", on_wait=say) as lock:
            self.epoch, self.guard = lock.epoch, lock.guard()
            if lock.taken_over:
                say(lock.taken_over)
            self._finish_discard()
            swept = sweep(self)
            if swept:
                say(f"swept {swept:,} partial {'file' if swept == 1 else 'files'} of an interrupted run")
            try:
                yield
            finally:
                self.guard = None

    def check(self) -> None:
        """FencedError where another run has taken this output over since it was locked."""
        if self.guard is not None:
            self.guard()

    def ledger(self) -> Ledger:
        """The completion records, read anew."""
        return Ledger(self.private / "ledger.jsonl")

    def log(self, event: str, **values: Any) -> None:
        """Append one line to history.jsonl."""
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}
        self._history.append(line, soon=event == "shard")

    # --- configuration of each stage ----------------------------------------------------------

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Stage keys and the configuration each was started with."""
        path = self.private / "config.json"
        try:
            found = json.loads(places.read_bytes(path))
            if all(isinstance(values, dict) for values in found.values()):
                return found
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError):
            pass
        raise ConfigError(f"{path} is damaged; restore it, or begin again in a new --output")

    def remembered(self, name: str | None = None) -> dict[str, Any]:
        """Dotted keys of the configuration behind the map ``name``: the defaults of further commands.

        Without a name it is "main", or the only map there is. A map that is not there yet takes the
        settings of "main" as its defaults.
        """
        recorded = self.recorded()
        names = {key.partition(":")[2] for key in recorded if ":" in key}
        if name is None:
            name = names.pop() if len(names) == 1 else "main"
        tables = ("images", "catalogue", "ingest.", "preprocess.", "som.", "train.", "map.", "report.")
        found: dict[str, Any] = {}
        for stage in ("ingest", "preprocess", "train:main", f"train:{name}", f"map:{name}"):
            found |= {key: value for key, value in recorded.get(stage, {}).items() if key.startswith(tables)}
        if f"map:{name}" in recorded:  # see stage_values
            found.setdefault("map.method", "exact")
        found.pop("catalogue_sha256", None)
        return found | {"som.name": name} if recorded else {}

    def claim(self, stage: str, values: Mapping[str, Any]) -> str:
        """Start or continue ``stage`` with ``values``; returns their hash.

        Raises ConfigError naming the keys that differ where the stage was started with others.
        """
        flat = {key: _plain(value) for key, value in flatten(values).items()}
        recorded = self.recorded()
        if stage not in recorded:
            recorded[stage] = flat
            self._write_config(recorded)
        elif _set(recorded[stage]) != _set(flat):
            raise ConfigError(_difference(stage, recorded[stage], flat, self.root))
        return hash_of(recorded[stage])

    def discard(self, stage: str, name: str) -> None:
        """Discard ``stage`` and all after it: of the map ``name`` from train on, of all maps before.

        What is to go is written down first, so that a kill half-way is completed by the next `lock`.
        Raises ConfigError for an unknown stage.
        """
        if stage not in STAGES:
            raise ConfigError(f"--redo {stage}: the stages are {', '.join(STAGES)}")
        write_atomically(self._discarding, json.dumps({"stage": stage, "name": name}).encode())
        self._finish_discard()

    @property
    def _discarding(self) -> Place:
        return self.private / "discard.json"

    def _finish_discard(self) -> None:
        try:
            wanted = json.loads(places.read_bytes(self._discarding))
            stage, name = wanted["stage"], wanted["name"]
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError):
            raise ConfigError(f"{self._discarding} is damaged; remove it and give --redo again") from None
        later = STAGES[STAGES.index(stage) :]
        everything = stage in ("ingest", "preprocess")
        keys = [
            key
            for key in self.recorded()
            if key.partition(":")[0] in later and (everything or key.partition(":")[2] == name)
        ]
        for path in self._discarded_paths(stage, None if everything else name):
            remove_tree(path)
        if stage != "report":  # results of a map that is gone must not look like results
            for path in (self.report, *(self.root / file for file in READINGS)):
                places.remove(path)
        if stage == "ingest":
            places.remove(self.catalogue)
            places.remove(self.private / "columns.json")
        elif stage != "report" and places.exists(self.catalogue):
            known = makers(self.private)
            stale = [c for c, maker in known.items() if maker.mapping and (everything or maker.mapping == name)]
            # bmu ... are of the latest mapping, whichever that was; one with a suffix has not written them.
            recorded = self.recorded()
            beside = [bool(recorded[key].get("map.column_suffix")) for key in keys if key.startswith("map:")]
            drop = stale if beside and all(beside) and not everything else [*MAPPING_COLUMNS, *stale]
            update_catalogue(self.catalogue, {}, Survey(self.survey).shard_images, drop=tuple(drop))
            write_makers(self.private, {column: known[column] for column in known if column not in stale})
        self.forget(*keys)
        places.remove(self._discarding)

    def _discarded_paths(self, stage: str, name: str | None) -> list[Place]:
        trainings = places.files_below(self.private, "training-*.npz")
        if stage == "ingest":
            return [self.survey, self.survey.with_name("survey.zarr.partial"), *trainings]
        soms, mappings = self.survey / "soms", self.survey / "mappings"
        if stage == "preprocess":
            arrays = [self.survey / array for array in PREPARED_ARRAYS]
            return [*arrays, soms, mappings, *trainings]
        paths = [mappings / str(name)] if stage in ("train", "map") else []
        if stage == "train":
            # Maps of the user may have similar names: they are recorded, or end otherwise.
            own = {key.partition(":")[2] for key in self.recorded()}
            after_stage = re.compile(re.escape(f"{name}-stage") + r"\d+")
            stages = [e for e in places.entries(soms) if after_stage.fullmatch(e.name) and e.name not in own]
            paths += [soms / str(name), *stages, self.checkpoint(str(name))]
        return paths

    def forget(self, *stages: str) -> None:
        """Discard the configuration and completion records of stage keys."""
        self.ledger().drop(*stages)
        self._write_config({key: value for key, value in self.recorded().items() if key not in stages})

    def need(self, stage: str, command: str) -> str:
        """Hash of a finished stage; MissingStageError with the command that makes it."""
        recorded = self.recorded()
        if stage not in recorded or not Survey.is_at(self.survey):
            raise MissingStageError(f"{self.root} has no finished stage {stage!r}; run `{command}` first")
        return hash_of(recorded[stage])

    def _write_config(self, values: Mapping[str, Any]) -> None:
        write_atomically(self.private / "config.json", json.dumps(values, indent=1).encode())


def stage_values(config: Config, stage: str) -> dict[str, Any]:
    """The part of the configuration a stage depends on (those of earlier stages are checked by them)."""
    values = config.model_dump(mode="json")
    if stage == "ingest":
        return {"images": values["images"], "catalogue": values["catalogue"], "ingest": values["ingest"]}
    if stage == "preprocess":
        return {"preprocess": values["preprocess"]}
    if stage == "train":
        # What no result depends on may change while a training goes on.
        free = ("memory_gb", "checkpoint_batches")
        return {"som": values["som"], "train": {k: v for k, v in values["train"].items() if k not in free}}
    if stage == "map":
        # Without a published map the lattice is that of training; it is recorded there. An exact mapping is recorded
        # without its method, as it was before there were others, and no result of it depends on what they need.
        calibrated = ("exact_neurons", "check_share", "calibration_images")
        unused = {"certified": (), "polar": calibrated, "exact": ("method", *calibrated)}[config.map.method]
        return {
            "map": {key: value for key, value in values["map"].items() if key not in unused},
            "som": {key: values["som"][key] for key in ("region", "region_side", "flip")},
        }
    return {"report": values["report"]}


def hash_of(values: Any) -> str:
    """Short hash of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def missing_shards(output: Output, stage: str, config: str) -> list[tuple[int, int]]:
    """Shards of the survey that the ledger does not know to be done in ``stage``."""
    done = output.ledger().done(stage, config)
    return [shard for shard in Survey(output.survey).shards() if shard not in done]


class Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self.started, 3)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is set: a key that is None, and one that was not known yet when a stage was started, say the same."""
    return {key: value for key, value in values.items() if value is not None}


def _difference(stage: str, old: Mapping[str, Any], new: Mapping[str, Any], root: Place) -> str:
    lines = []
    if stage.startswith("map:"):  # see stage_values
        old, new = {"map.method": "exact", **old}, {"map.method": "exact", **new}
    for key in sorted({*old, *new}):
        before, now = old.get(key), new.get(key)
        if before != now:
            shown = ["not set" if value is None else json.dumps(value) for value in (before, now)]
            lines.append(f"  {key}: {shown[0]} there, {shown[1]} in this run")
    name, _, som = stage.partition(":")
    if "imported" in old:
        return f"{root} holds {stage!r} as imported files; choose another name with --som-name, or another --output"
    redo = f"skysom run --output {root} --redo {name}" + (f" --som-name {som}" if som not in ("", "main") else "")
    return (
        f"{root} holds stage {stage!r} of another configuration:\n" + "\n".join(lines) + "\n"
        f"choose another --output, give the values that are there, or discard that stage and all after it "
        f"with `{redo}`"
    )
