"""Judging a map: the distances of a fixed sample of images, which tell whether training still changes it."""

from functools import cached_property

import numpy as np

from skysom.cluster.executors import one_thread
from skysom.engine.batch import search_blocks
from skysom.engine.exact import Search
from skysom.engine.geometry import Geometry
from skysom.engine.reading.choosing import Strata, chosen_rows
from skysom.jobs.preprocess import PreparedReader

JUDGED_IMAGES = 1000
"""Images that a map in training is judged by, at most."""


class Judge:
    """A fixed sample of the images ``rows`` (n,) int64; call it with a map for their mean distance to it."""

    def __init__(self, reader: PreparedReader, rows: np.ndarray, seed: int, images: int = JUDGED_IMAGES) -> None:
        self.reader = reader
        self._sampled = rows, images, seed

    def __call__(self, weights: np.ndarray, geometry: Geometry) -> float:
        """Mean distance of the sample to its best-matching units in weights (N, C, D, D)."""
        return float(sample_distances(self._images, weights, geometry).mean(dtype=np.float64))

    @cached_property
    def rows(self) -> np.ndarray:
        """The rows of the sample, ascending."""
        return sampled_rows(*self._sampled)

    @cached_property
    def _images(self) -> np.ndarray:
        return self.reader.rows(self.rows)


def sampled_rows(rows: np.ndarray, images: int, seed: int) -> np.ndarray:
    """At most ``images`` of ``rows`` (n,) int64, ascending: which, depends on the seed and the rows' numbers alone."""
    one = Strata(np.zeros(len(rows), np.int64), ("all",))
    return np.sort(rows[chosen_rows(one, np.array([images]), seed=seed, rows=rows)])


def sample_distances(images: np.ndarray, weights: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Distance (n,) float32 of images (n, C, H, H) to their best-matching units, by the exact search.

    On one thread and in blocks of 32 from the first: the same bits on any number of cores.
    """
    return one_thread(lambda: search_blocks(Search(weights, geometry), images).bmu_distance)
