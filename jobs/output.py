"""The output directory of a run: its paths, its history, and which configuration made which stage."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skysom.cluster.ledger import Ledger
from skysom.cluster.lock import OutputLock
from skysom.jobs.config import Config, flatten
from skysom.jobs.errors import ConfigError, MissingStageError

STAGES = ("ingest", "preprocess", "train", "map", "report")


class Output:
    """``DIR`` and what is in it. Open it with `open` to write (one run at a time)."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.survey = self.root / "survey.zarr"
        self.catalogue = self.root / "catalogue.parquet"
        self.report = self.root / "report.html"
        self.history = self.root / "history.jsonl"
        self.private = self.root / ".skysom"
        self.checkpoint = self.private / "training.npz"

    def lock(self) -> OutputLock:
        """Context manager: nobody else writes here meanwhile (LockedError while another run does)."""
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"--output {self.root} is a file; give a directory")
        try:
            self.private.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to --output {self.root}: {error.strerror}") from None
        return OutputLock(self.private / "lock")

    def ledger(self) -> Ledger:
        return Ledger(self.private / "ledger.jsonl")

    def log(self, event: str, **values: Any) -> None:
        """Append one line to history.jsonl."""
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **values}
        with self.history.open("a") as file:
            file.write(json.dumps(line) + "\n")

    # --- configuration of each stage ----------------------------------------------------------

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Stage keys and the configuration each was started with."""
        path = self.private / "config.json"
        return json.loads(path.read_text()) if path.exists() else {}

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
        found.pop("catalogue_sha256", None)
        return found | {"som.name": name} if recorded else {}

    def claim(self, stage: str, values: Mapping[str, Any]) -> str:
        """Start or continue ``stage`` with ``values``; returns their hash.

        Raises ConfigError naming the keys that differ where the stage was started with others.
        """
        flat = {key: _plain(value) for key, value in flatten(values).items()}
        recorded = self.recorded()
        if stage in recorded and recorded[stage] != flat:
            raise ConfigError(_difference(stage, recorded[stage], flat, self.root))
        if stage not in recorded:
            recorded[stage] = flat
            self._write_config(recorded)
        return hash_of(flat)

    def forget(self, *stages: str) -> None:
        """Discard the configuration and completion records of stage keys."""
        self._write_config({key: value for key, value in self.recorded().items() if key not in stages})
        self.ledger().drop(*stages)

    def need(self, stage: str, command: str) -> str:
        """Hash of a finished stage; MissingStageError with the command that makes it."""
        recorded = self.recorded()
        if stage not in recorded or not self.survey.exists():
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
        return {"som": values["som"], "train": values["train"]}
    if stage == "map":
        # Without a published map the lattice is that of training; it is recorded there.
        return {
            "map": values["map"],
            "som": {key: values["som"][key] for key in ("region", "region_side", "flip")},
        }
    return {"report": values["report"]}


def hash_of(values: Any) -> str:
    """Short hash of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside and rename: the file is the old one or the new one, never half."""
    beside = path.with_name(path.name + ".partial")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


class Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self.started, 3)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _difference(stage: str, old: Mapping[str, Any], new: Mapping[str, Any], root: Path) -> str:
    missing = object()
    lines = []
    for key in sorted({*old, *new}):
        before, now = old.get(key, missing), new.get(key, missing)
        if before != now:
            shown = ["not set" if v is missing or v is None else json.dumps(v) for v in (before, now)]
            lines.append(f"  {key}: {shown[0]} there, {shown[1]} in this run")
    name = stage.partition(":")[0]
    return (
        f"{root} holds stage {stage!r} of another configuration:\n" + "\n".join(lines) + "\n"
        f"choose another --output, give the values that are there, or discard that stage and all after it "
        f"with `--redo {name}`"
    )
