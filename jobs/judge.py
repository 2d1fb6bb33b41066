"""Judge: the distances of one sample of images to every stored map, and how each training came there."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skysom.cluster.tables import rows_where
from skysom.engine.geometry import Geometry
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.output import Output
from skysom.jobs.preprocess import open_prepared
from skysom.jobs.progress import Progress, say
from skysom.jobs.report_history import events, read_history
from skysom.jobs.results import check_rows
from skysom.jobs.train import check_usable
from skysom.jobs.training_judge import sample_distances, sampled_rows
from skysom.storage.place import write_atomically
from skysom.storage.survey import Survey

FILE = "judge.json"
"""Where a judgement is written, in the output."""
CURVE_KEYS = ("training_stage", "iteration", "images_seen", "mean_bmu_distance", "sigma", "update_factor")
JUDGED_KEYS = ("training_stage", "iteration", "mean_distance", "change", "ended")
"""What a point of a curve has, of the events of a training."""


@dataclass(frozen=True)
class Verdict:
    """What a sample says of one map.

    distances of the sample to it: total, mean, median and 99th percentile; change: of the mean, relative to the map
    of the stage before it (None where there is none). comparable: a name for the geometry and the channel weights;
    distances to maps of which it differs cannot be compared.
    """

    name: str
    neurons: int
    total: float
    mean: float
    median: float
    percentile_99: float
    change: float | None
    comparable: str


def judge(
    output: Output,
    som_names: list[str] | None = None,
    *,
    images: int = 1000,
    where: str | None = None,
    seed: int = 1234,
) -> dict[str, Any]:
    """Judge maps by the distances of ``images`` usable images to their best-matching units; writes OUTPUT/judge.json.

    som_names : default all maps of the output whose images were prepared as they are now; others are named and left
        out. A name brings the maps of its stages (NAME-stage1, ...).

    All maps are searched exactly and with the same rotations, the most that any of them has. Returns what is written:
    the sample, a verdict a map (see `Verdict`), and for each map the curves of its training from history.jsonl,
    ``training`` (mean distance of the images it learned from) and ``judged`` (that of the fixed sample of
    train.stop_change).

    Raises MissingStageError where there is no map to judge, SurveyError for one that is not there, ConfigError where no
    usable row is selected.
    """
    reader, survey = open_prepared(output), Survey(output.survey)
    check_usable(output)
    usable = survey.column("ok")
    if where is not None:
        check_rows(output.catalogue, len(survey))
        usable &= rows_where(output.catalogue, where)
    if not usable.any():
        raise ConfigError(f"--where {where!r} selects no usable row; change it or leave it out")
    rows = sampled_rows(np.flatnonzero(usable), images, seed)
    names = _names(survey, som_names)
    attrs = {name: survey.load_som_attrs(name) for name in names}
    geometries = {name: Geometry(**attrs[name]["geometry"]) for name in names}
    rotations = max(geometry.rotations for geometry in geometries.values())
    unweighted = replace(reader, weights=(1.0,) * len(reader.weights)).rows(rows)
    verdicts: list[Verdict] = []
    with Progress("judge", unit="maps") as progress:
        for name in names:
            weights = survey.load_som(name)[0]
            geometry = replace(geometries[name], rotations=rotations)
            channels = attrs[name].get("channel_weights", list(reader.weights))
            sample = unweighted * np.asarray(channels, np.float32)[:, None, None]
            verdicts.append(_verdict(name, sample_distances(sample, weights, geometry), weights, geometry, channels))
            progress(len(verdicts), len(names))
    judged = {
        "images": len(rows),
        "rows": rows.tolist(),
        "seed": seed,
        "where": where,
        "rotations": rotations,
        "maps": [vars(verdict) for verdict in _with_changes(verdicts)],
        "curves": curves(output, names),
    }
    write_atomically(output.root / FILE, json.dumps(judged, indent=1).encode())
    return judged


def _names(survey: Survey, asked: list[str] | None) -> list[str]:
    """Maps to judge, a map's stages before it."""
    there = survey.som_names()
    if asked:
        missing = [name for name in asked if name not in there]
        if missing:
            survey.load_som(missing[0])  # says which there are
        there = [name for name in there if name in asked or _base(name) in asked]
    fitting = [name for name in there if _fits(survey, name)]
    left_out = [name for name in there if name not in fitting]
    if left_out:
        say(f"judge: {', '.join(left_out)} left out, made for images that were prepared otherwise")
    if not fitting:
        raise MissingStageError(f"{survey.path} has no map to judge; run `skysom train` first")
    return sorted(fitting, key=lambda name: (_base(name) or name, _base(name) is None, _stage(name), name))


def _fits(survey: Survey, name: str) -> bool:
    found, attrs = survey.load_som_attrs(name), survey.attrs
    if "geometry" not in found:
        return False
    shape = survey[f"soms/{name}/weights"].shape
    fits = shape[1] == len(attrs["channels"]) and found["geometry"]["image_side"] == attrs["prepared_side"]
    return fits and found.get("chain", attrs["chain"]) == attrs["chain"]


def _base(name: str) -> str | None:
    """The map of which ``name`` is a stage."""
    base, separator, number = name.rpartition("-stage")
    return base if separator and base and number.isdecimal() else None


def _stage(name: str) -> int:
    return int(name.rpartition("-stage")[2]) if _base(name) else 0


def _verdict(
    name: str, distance: np.ndarray, weights: np.ndarray, geometry: Geometry, channels: list[float]
) -> Verdict:
    values = distance.astype(np.float64)
    region = f"{geometry.region} region of {geometry.region_side} pixels"
    relative = ":".join(f"{weight:.6g}" for weight in channels)
    return Verdict(
        name, len(weights), float(values.sum()), float(values.mean()), float(np.median(values)),
        float(np.percentile(values, 99)), None, f"{region}, flip {geometry.flip}, channel weights {relative}",
    )  # fmt: skip


def _with_changes(verdicts: list[Verdict]) -> list[Verdict]:
    """Verdicts in order, each with the change of the mean from the stage before it."""
    found: list[Verdict] = []
    for verdict in verdicts:
        before = found[-1] if found else None
        same = before is not None and _base(before.name) in (verdict.name, _base(verdict.name)) and _base(before.name)
        change = verdict.mean / before.mean - 1 if before is not None and same and before.mean > 0 else None
        found.append(replace(verdict, change=change))
    return found


def curves(output: Output, names: list[str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Points of the curves ``training`` and ``judged`` of each map that was trained here, in the order of training.

    Of a training that was begun anew, or resumed further back, the last course counts.
    """
    judged: dict[str, dict[tuple[int, int], dict[str, Any]]] = {name: {} for name in names}
    for event in events(output.history):
        if event.get("event") == "judged" and event.get("som") in judged and event.keys() >= set(JUDGED_KEYS):
            points, key = judged[event["som"]], (event["training_stage"], event["iteration"])
            points = {before: point for before, point in points.items() if before < key}
            judged[event["som"]] = points | {key: {name: event[name] for name in JUDGED_KEYS}}
    found = {}
    for name in names:
        training = [
            {key: event.get(key) for key in CURVE_KEYS} for event in read_history(output.history, name, name).training
        ]
        if training or judged[name]:
            found[name] = {"training": training, "judged": list(judged[name].values())}
    return found
