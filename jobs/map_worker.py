"""What mapping does to a shard: search in blocks, check some of it, keep all neurons or the best, write."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from skysom.cluster.ledger import Shard
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.certified import CertifiedSearch
from skysom.engine.exact import Search
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match
from skysom.engine.search import searcher
from skysom.jobs.map_method import EXACT, TIE, Method, Tally
from skysom.jobs.preprocess import PreparedReader
from skysom.storage.errors import SurveyError
from skysom.storage.survey import ArraySpec, Survey

SELECTED = "selected"
"""Array of a mapping of a part of the survey: the rows it is of."""
PAIR_BYTES = 4 + 2 + 1 + 4 + 1
"""Kept for an image and neuron: distance, rotation, flip, of the best which neuron, and whether it is exact."""


@dataclass(frozen=True)
class Input:
    """What a shard is computed from: fetched images, and the rows (n,) bool to be searched."""

    fetched: Any
    wanted: np.ndarray


@dataclass(frozen=True)
class Found:
    """The arrays of a mapping for a shard, and what the search of it took."""

    arrays: dict[str, np.ndarray]
    tally: Tally


@dataclass(frozen=True)
class MapWorker:
    """Searches a shard in blocks of fixed shape and writes distances and transforms.

    keep: how many neurons an image, the best first; None for all, in the order of the lattice.
    part: whether only the rows of the array ``selected`` are mapped.
    method: how it searches. Of the certified search some rows are searched exactly as well, and the whole shard where
    one of them was missed; that depends on the shard alone, so no result depends on who has it.
    """

    reader: PreparedReader
    weights: np.ndarray
    geometry: Geometry
    group: str
    keep: int | None = None
    part: bool = False
    method: Method = EXACT

    @cached_property
    def survey(self) -> Survey:
        """The store, open for writing."""
        return Survey(self.reader.survey, "r+")

    @cached_property
    def _selection(self) -> Survey:
        # Not `survey`: reading and writing have threads of their own.
        return Survey(self.reader.survey)

    @cached_property
    def search(self) -> Callable[[np.ndarray], Match]:
        """Tables and neuron spectra, made once a worker."""
        method = self.method
        return searcher(self.weights, self.geometry, method.name, method.calibration, method.exact_neurons)

    def read(self, shard: Shard) -> Input | None:
        """Images and which of them to search; None, and nothing read, where there are none."""
        wanted = self.reader.usable(*shard)
        if self.part:
            wanted &= self._selection.read(f"{self.group}/{SELECTED}", *shard)
        if self.part and not wanted.any():
            return None
        return Input(self.reader.fetch(*shard), wanted)

    def compute(self, shard: Shard, data: Input | None) -> Found | None:
        """The arrays of the mapping for the rows of the shard; None where none is to be searched."""
        if data is None:
            return None
        images, wanted = self.reader.prepared(data.fetched), data.wanted
        arrays = {
            name: np.full((len(wanted), *spec.shape), spec.fill, spec.dtype)
            for name, spec in mapping_arrays(len(self.weights), self.keep, self.method.certified).items()
        }
        tally = Tally(int(np.count_nonzero(wanted)))
        self._fill(arrays, images, wanted, self.search, tally)
        if isinstance(self.search, CertifiedSearch):
            checked = np.flatnonzero(wanted & self.method.checked(*shard))
            tally.checked = len(checked)
            tally.missed = self._missed(arrays, images, checked, self.search.exact)
            if tally.missed:
                tally.fallback_shards = 1
                self._fill(arrays, images, wanted, self.search.exact, tally)
        return Found(arrays, tally)

    def _fill(
        self,
        arrays: dict[str, np.ndarray],
        images: np.ndarray,
        wanted: np.ndarray,
        search: Callable[[np.ndarray], Match],
        tally: Tally,
    ) -> None:
        """Fill the rows ``wanted`` (n,) bool of ``arrays`` by ``search`` of the images (n, C, H, H)."""
        # Blocks count from the first row of the survey whatever is selected: the same search for every selection.
        for first in range(0, len(wanted), BLOCK_IMAGES):
            block = slice(first, min(first + BLOCK_IMAGES, len(wanted)))
            rows = wanted[block]
            if not rows.any():
                continue
            if not images[block][rows].any(axis=(1, 2, 3)).all():
                raise SurveyError(f"{self.reader.survey}: an image marked usable is empty; the store lost data")
            if isinstance(search, CertifiedSearch):
                match, effort = search.examine(images[block])
                tally.worked(effort, rows)
            else:
                match = search(images[block])
            for name, values in self._arrays_of(match, rows).items():
                arrays[name][block][rows] = values

    def _missed(self, arrays: dict[str, np.ndarray], images: np.ndarray, checked: np.ndarray, exact: Search) -> int:
        """How many of the rows ``checked`` (n,) of ``arrays`` have another best match than ``exact`` finds.

        The same neuron and transform, or an equal distance (a tie), is the same match.
        """
        missed = 0
        for first in range(0, len(checked), BLOCK_IMAGES):
            rows = checked[first : first + BLOCK_IMAGES]
            found = self._arrays_of(exact(images[rows], alone=True), np.ones(len(rows), bool))
            same = np.ones(len(rows), bool)
            for name in ("bmu", "bmu_rotation", "bmu_flip"):
                same &= arrays[name][rows] == found[name]
            equal = np.isclose(arrays["bmu_distance"][rows], found["bmu_distance"], rtol=TIE, atol=0)
            missed += int(np.count_nonzero(~(same | equal)))
        return missed

    def _arrays_of(self, match: Match, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Values of every array for the ``rows`` (n,) bool of a block."""
        distance, transform, bmu, exact = (
            getattr(match, name)[rows] for name in ("distance", "transform", "bmu", "exact")
        )
        best = np.take_along_axis(transform, bmu[:, None], axis=1)[:, 0]
        found: dict[str, np.ndarray] = {"bmu": bmu, "bmu_distance": match.bmu_distance[rows]}
        if self.keep is not None:
            # Stable: of equally distant neurons the lowest comes first, as for the best-matching unit.
            found["neuron"] = np.argsort(distance, axis=1, kind="stable")[:, : self.keep]
            distance, transform, exact = (
                np.take_along_axis(a, found["neuron"], axis=1) for a in (distance, transform, exact)
            )
        if self.method.certified:
            found["exact"] = exact
        found["distance"] = distance
        found["flip"], found["rotation"] = np.divmod(transform, self.geometry.rotations)
        found["bmu_flip"], found["bmu_rotation"] = np.divmod(best, self.geometry.rotations)
        return found

    def write(self, shard: Shard, result: Found | None) -> dict[str, Any]:
        """Write the arrays; counts the mapped rows and, of the certified search, what `Tally` has."""
        if result is None:  # the fill values of the arrays say so already
            return Tally().counts(self.method)
        arrays = result.arrays
        for name in sorted(arrays, key=lambda name: name == "bmu"):  # bmu last
            self.survey.write_rows(f"{self.group}/{name}", shard[0], arrays[name])
        return result.tally.counts(self.method)


def mapping_arrays(neurons: int, keep: int | None, certified: bool = False) -> dict[str, ArraySpec]:
    """The arrays of a mapping onto ``neurons`` neurons, all or the ``keep`` best of each image kept.

    certified: whether there is one that says which distances are exact; without it all are of one kind.
    """
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
    if certified:
        words = "distance as the exact search has it; else approximate, and so are its rotation and flip"
        specs["exact"] = ArraySpec("bool", dims, shape, attrs={"long_name": words})
    return specs
