"""Masks to collate by: annotations of a map, kept by skysom or by the peer, as bit planes, and how far they reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skysom.engine.lattice import Lattice
from skysom.jobs.annotate import annotations_folder, map_of
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import Output
from skysom.jobs.pyink_annotations import annotations_from_pyink
from skysom.storage import annotations as kept
from skysom.storage import place as places
from skysom.storage.annotation_set import AnnotationError, AnnotationSet
from skysom.storage.place import Place, place
from skysom.storage.pyink_annotations import read_pyink_annotations

PICKLES = (".pkl", ".pickle")


@dataclass(frozen=True)
class Masks:
    """Masks of a map. labels : P names. planes : (N, C, D, D) uint64, bit p is label p. annotated : (N,) bool.

    A neuron is annotated where anything is said of it: a mask, a text label, a note. neuron_labels : text labels of
    each neuron. som_sha256 : of the map they were made for. origin : plain values that say where they come from.
    """

    labels: tuple[str, ...]
    planes: np.ndarray
    annotated: np.ndarray
    neuron_labels: tuple[tuple[str, ...], ...]
    som_sha256: str
    origin: dict[str, Any]

    def empty(self) -> np.ndarray:
        """(N,) bool: neurons without a labelled pixel in any channel."""
        return ~(self.planes != 0).any(axis=(1, 2, 3))


def masks_of_annotations(annotations: AnnotationSet, origin: dict[str, Any]) -> Masks:
    """Masks of an annotation set. CollationError for more than 64 labels, AnnotationError without any."""
    from skysom.engine.collation.projection import label_planes

    if not annotations.labels:
        raise AnnotationError(f"the annotations ({_words(origin)}) have no label for masks; draw masks first")
    annotated = np.zeros(annotations.neurons, bool)
    annotated[list(annotations.records)] = True
    return Masks(
        annotations.labels,
        label_planes(annotations.planes(), len(annotations.labels)),
        annotated,
        tuple(annotations.neuron_labels()),
        annotations.som_sha256,
        origin,
    )


def masks_of_output(output: Output, som_name: str, chosen: str | None) -> Masks:
    """Masks for the map ``som_name`` of an output.

    chosen : the name of a map of the output with annotations (default: ``som_name``), a folder of annotations or of
    one version of them, its state.json, or the peer's ``.results.pkl``, which is read without executing anything.

    Raises
    ------
    AnnotationError : nothing there, damaged, or annotations of another map. ConfigError : no such name or file.
    """
    if chosen is None or (chosen in _annotated_maps(output) and not places.exists(place(chosen))):
        return _kept(annotations_folder(output, chosen or som_name))
    path = place(chosen)
    if path.name.lower().endswith(PICKLES):
        weights, lattice, attrs = map_of(output, som_name)
        return masks_of_pyink(path, weights, lattice, attrs["sha256"])
    if path.name == kept.STATE:
        path = path.parent
    version = int(path.name) if kept.NUMBER.fullmatch(path.name) else None
    folder = path if version is None else path.parent
    if not kept.current_version(folder):
        there = ", ".join(_annotated_maps(output)) or "none"
        raise ConfigError(
            f"--annotations {chosen}: there are no annotations there; give the name of an annotated map ({there}), a "
            "folder or state.json of annotations, or a .results.pkl of pyink"
        )
    return _kept(folder, version)


def masks_of_pyink(path: Place, weights: np.ndarray, lattice: Lattice, som_sha256: str) -> Masks:
    """Masks of the peer's file for the map of ``weights`` (N, C, D, D); raises as `annotations_from_pyink`."""
    found = read_pyink_annotations(path)
    channels = [f"channel {channel}" for channel in range(weights.shape[1])]
    annotations = annotations_from_pyink(found, weights, lattice, channels, som_sha256, author="pyink")
    masks = masks_of_annotations(annotations, {"pyink": path.name})
    # There a neuron that somebody looked at and left empty is known.
    positions = {(int(i), int(j)): n for n, (i, j, depth) in enumerate(lattice.positions()) if depth == 0}
    masks.annotated[[positions[key] for key in found]] = True
    return masks


def check_masks(masks: Masks, *, neurons: int, channels: Sequence[str], side: int, som_sha256: str | None) -> None:
    """AnnotationError unless the masks are of a mapping's map: by hash where it has one, else by their shape."""
    wanted, found = (neurons, len(channels), side, side), masks.planes.shape
    if som_sha256 is not None and som_sha256 != masks.som_sha256:
        raise AnnotationError(
            f"the annotations ({_words(masks.origin)}) are of the map {masks.som_sha256[:12]}..., the mapping was made "
            f"with {som_sha256[:12]}...; give the annotations of that map, or map onto the annotated one"
        )
    if found != wanted:
        raise AnnotationError(
            f"the annotations ({_words(masks.origin)}) are of a map of shape {found}, the mapping is of one of "
            f"{wanted}; give the annotations of that map"
        )


def reach_arcsec(planes: np.ndarray, pixel_scale_arcsec: tuple[float, float]) -> float:
    """How far from a source a label of ``planes`` (..., D, D) can be: no neighbour further away carries one.

    The farthest corner of the labelled pixels from the centre. Pixel i of an axis holds offsets from i - D/2 to
    i + 1 - D/2, and pixel 0 those of the one before it, too (specs/pyink.md, section 4). Masks turn, so of two scales
    the larger one counts. The spherical separation is at most the planar distance of the offsets, and a millionth is
    added for rounding. 0 where nothing is labelled.
    """
    labelled = (planes != 0).reshape(-1, *planes.shape[-2:]).any(axis=0)
    side = planes.shape[-1]
    first, last = np.arange(side) - side / 2, np.arange(side) + 1 - side / 2
    first[0] -= 1
    furthest = np.maximum(np.abs(first), np.abs(last))
    pixels = np.hypot(furthest[:, None], furthest[None, :])[labelled].max(initial=0.0)
    return float(pixels) * max(pixel_scale_arcsec) * (1 + 1e-6)


def _kept(folder: Place, version: int | None = None) -> Masks:
    annotations = kept.load(folder, version)
    where = str(folder.resolve() if isinstance(folder, Path) else folder)
    return masks_of_annotations(annotations, {"folder": where, "version": annotations.version})


def _annotated_maps(output: Output) -> list[str]:
    return sorted(entry.name for entry in places.entries(output.root / "annotations") if kept.current_version(entry))


def _words(origin: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in origin.items())
