"""Annotations of an output's maps: where they lie, how they begin, and the peer's file in and out."""

import getpass
from typing import Any

import numpy as np

from skysom.engine.lattice import Lattice, lattice_from_dict
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.output import Output
from skysom.jobs.pyink_annotations import annotations_from_pyink, pyink_from_annotations
from skysom.storage import annotations as kept
from skysom.storage.annotation_set import AnnotationSet, new_annotation_set
from skysom.storage.place import Place, place
from skysom.storage.pyink_annotations import read_pyink_annotations, write_pyink_annotations
from skysom.storage.survey import Survey


def annotations_folder(output: Output, name: str = "main") -> Place:
    """Where the annotations of the map ``name`` are kept."""
    return output.root / "annotations" / name


def annotations_of(output: Output, name: str = "main") -> AnnotationSet:
    """The annotations of the map ``name``; new ones where there are none yet.

    Raises MissingStageError without that map, AnnotationError where they were made for another one.
    """
    weights, _, attrs = map_of(output, name)
    folder = annotations_folder(output, name)
    if kept.current_version(folder):
        return kept.load(folder, som_sha256=attrs["sha256"])
    channels = _channels(attrs, weights.shape[1])
    return new_annotation_set(attrs["sha256"], dict(attrs["lattice"]), len(weights), weights.shape[-1], channels)


def save_annotations(output: Output, name: str, annotations: AnnotationSet, author: str | None = None) -> AnnotationSet:
    """Keep ``annotations`` as the next version of the map ``name``, by ``author`` (default: who is logged in).

    AnnotationConflictError where somebody else saved meanwhile; the output's lock is not needed.
    """
    return kept.save(annotations_folder(output, name), annotations, author=author or user())


def import_pyink(output: Output, name: str, path: str, author: str | None = None) -> AnnotationSet:
    """Take the annotations of a pyink ``.results.pkl`` over as the first version of the map ``name``.

    Raises ConfigError where the map has annotations already; PickleRefused for a file that holds anything else than
    such annotations; AnnotationError for those of another map.
    """
    folder = annotations_folder(output, name)
    there = kept.current_version(folder)
    if there:
        raise ConfigError(f"{folder} has annotations already (version {there}); import for another --som-name")
    weights, lattice, attrs = map_of(output, name)
    found, channels = read_pyink_annotations(place(path)), _channels(attrs, weights.shape[1])
    author = author or user()
    annotations = annotations_from_pyink(found, weights, lattice, channels, attrs["sha256"], author=author)
    return save_annotations(output, name, annotations, author)


def export_pyink(output: Output, name: str, path: str) -> int:
    """Write the annotations of the map ``name`` as a pyink ``.results.pkl``; returns the neurons written."""
    weights, lattice, attrs = map_of(output, name)
    annotations = kept.load(annotations_folder(output, name), som_sha256=attrs["sha256"])
    found = pyink_from_annotations(annotations, weights, lattice)
    write_pyink_annotations(place(path), found)
    return len(found)


def map_of(output: Output, name: str) -> tuple[np.ndarray, Lattice, dict[str, Any]]:
    """Weights (N, C, D, D), lattice and attributes of the map ``name``; MissingStageError where it is not there."""
    output.need("ingest", "skysom run")
    survey = Survey(output.survey)
    if name not in survey.som_names():
        there = ", ".join(survey.som_names()) or "none"
        raise MissingStageError(f"{output.root} has no map {name!r} (there: {there}); choose one with --som-name")
    weights, attrs = survey.load_som(name)
    return weights, lattice_from_dict(attrs["lattice"]), attrs


def user() -> str:
    """Who is logged in."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _channels(attrs: dict[str, Any], count: int) -> tuple[str, ...]:
    names = [str(name) for name in attrs.get("channels") or []]
    return tuple(names[i] if i < len(names) else f"channel {i}" for i in range(count))
