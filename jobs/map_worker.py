"""What mapping does to a shard: search in blocks, keep all neurons or the best, write."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from skysom.cluster.ledger import Shard
from skysom.engine.geometry import Geometry
from skysom.engine.search import BLOCK_IMAGES, Match, Search
from skysom.jobs.preprocess import PreparedReader
from skysom.storage.errors import SurveyError
from skysom.storage.survey import ArraySpec, Survey

SELECTED = "selected"
"""Array of a mapping of a part of the survey: the rows it is of."""
PAIR_BYTES = 4 + 2 + 1 + 4
"""Kept for an image and neuron: distance, rotation, flip and, of the best, which neuron."""


@dataclass(frozen=True)
class Input:
    """What a shard is computed from: fetched images, and the rows (n,) bool to be searched."""

    fetched: Any
    wanted: np.ndarray


@dataclass(frozen=True)
class MapWorker:
    """Searches a shard in blocks of fixed shape and writes distances and transforms.

    keep: how many neurons an image, the best first; None for all, in the order of the lattice.
    part: whether only the rows of the array ``selected`` are mapped.
    """

    reader: PreparedReader
    weights: np.ndarray
    geometry: Geometry
    group: str
    keep: int | None = None
    part: bool = False

    @cached_property
    def survey(self) -> Survey:
        """The store, open for writing."""
        return Survey(self.reader.survey, "r+")

    @cached_property
    def _selection(self) -> Survey:
        # Not `survey`: reading and writing have threads of their own.
        return Survey(self.reader.survey)

    @cached_property
    def search(self) -> Search:
        """Tables and neuron spectra, made once a worker."""
        return Search(self.weights, self.geometry)

    def read(self, shard: Shard) -> Input | None:
        """Images and which of them to search; None, and nothing read, where there are none."""
        wanted = self.reader.usable(*shard)
        if self.part:
            wanted &= self._selection.read(f"{self.group}/{SELECTED}", *shard)
        if self.part and not wanted.any():
            return None
        return Input(self.reader.fetch(*shard), wanted)

    def compute(self, shard: Shard, data: Input | None) -> dict[str, np.ndarray] | None:
        """The arrays of the mapping for the rows of the shard; None where none is to be searched."""
        if data is None:
            return None
        images, wanted = self.reader.prepared(data.fetched), data.wanted
        arrays = {
            name: np.full((len(wanted), *spec.shape), spec.fill, spec.dtype)
            for name, spec in mapping_arrays(len(self.weights), self.keep).items()
        }
        # Blocks count from the first row of the survey whatever is selected: the same search for every selection.
        for first in range(0, len(wanted), BLOCK_IMAGES):
            block = slice(first, min(first + BLOCK_IMAGES, len(wanted)))
            rows = wanted[block]
            if not rows.any():
                continue
            if not images[block][rows].any(axis=(1, 2, 3)).all():
                raise SurveyError(f"{self.reader.survey}: an image marked usable is empty; the store lost data")
            for name, values in self._arrays_of(self.search(images[block]), rows).items():
                arrays[name][block][rows] = values
        return arrays

    def _arrays_of(self, match: Match, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Values of every array for the ``rows`` (n,) bool of a block."""
        distance, transform, bmu = match.distance[rows], match.transform[rows], match.bmu[rows]
        best = np.take_along_axis(transform, bmu[:, None], axis=1)[:, 0]
        found: dict[str, np.ndarray] = {"bmu": bmu, "bmu_distance": match.bmu_distance[rows]}
        if self.keep is not None:
            # Stable: of equally distant neurons the lowest comes first, as for the best-matching unit.
            found["neuron"] = np.argsort(distance, axis=1, kind="stable")[:, : self.keep]
            distance, transform = (np.take_along_axis(a, found["neuron"], axis=1) for a in (distance, transform))
        found["distance"] = distance
        found["flip"], found["rotation"] = np.divmod(transform, self.geometry.rotations)
        found["bmu_flip"], found["bmu_rotation"] = np.divmod(best, self.geometry.rotations)
        return found

    def write(self, shard: Shard, result: dict[str, np.ndarray] | None) -> dict[str, Any]:
        """Write the arrays; counts the mapped rows."""
        if result is None:  # the fill values of the arrays say so already
            return {"mapped": 0}
        for name, values in result.items():
            if name != "bmu":
                self.survey.write_rows(f"{self.group}/{name}", shard[0], values)
        self.survey.write_rows(f"{self.group}/bmu", shard[0], result["bmu"])
        return {"mapped": int(np.count_nonzero(result["bmu"] >= 0))}


def mapping_arrays(neurons: int, keep: int | None) -> dict[str, ArraySpec]:
    """The arrays of a mapping onto ``neurons`` neurons, all or the ``keep`` best of each image kept."""
    dims, shape = (("neuron",), (neurons,)) if keep is None else (("rank",), (keep,))
    distance = {"units": "1", "long_name": "distance at the best transform"}
    turn = {"units": "1", "long_name": "rotation k: k * 360 / rotations degrees clockwise, row 0 on top"}
    flip = {"long_name": "rows reversed after the rotation"}
    specs = {
        "distance": ArraySpec("float32", dims, shape, np.nan, distance),
        "rotation": ArraySpec("uint16", dims, shape, attrs=turn),
        "flip": ArraySpec("bool", dims, shape, attrs=flip),
        "bmu": ArraySpec("int32", fill=-1, attrs={"long_name": "best-matching unit, -1 where not mapped"}),
        "bmu_distance": ArraySpec("float32", fill=np.nan, attrs=distance),
        "bmu_rotation": ArraySpec("uint16", attrs=turn),
        "bmu_flip": ArraySpec("bool", attrs=flip),
    }
    if keep is not None:
        which = {"long_name": "neuron of each rank, the nearest first; -1 where not mapped"}
        specs["neuron"] = ArraySpec("int32", dims, shape, -1, which)
    return specs
