"""The feature map: a self-organizing map of vectors, trained on tables of any length.

Here rows (B, F) float32 are matched against neurons (N, F); `feature_training` moves the map, `feature_tools` finds
scales, starting maps and clusters. A table is read in chunks, as often as it takes:

>>> import numpy as np
>>> from skysom.engine import Cartesian
>>> from skysom.engine.feature_tools import cluster_neurons, pca_plane, row_labels, sample_rows, standardisation
>>> from skysom.engine.feature_training import sigma_schedule, train_features
>>> from skysom.engine.features import FeatureSom, match_features
>>> table = np.random.default_rng(0).normal([0, 1000], [1, 30], (20_000, 2)).astype(np.float32)
>>> def chunks():
...     for first in range(0, 20_000, 5_000):
...         yield table[first : first + 5_000]
>>> scaling = standardisation(chunks)
>>> rows = scaling.over(chunks)
>>> lattice = Cartesian(6, 6)
>>> start = FeatureSom(pca_plane(sample_rows(rows, 2_000, seed=1), lattice), lattice)
>>> trained = train_features(rows, start, sigma_schedule(3.0, 0.5, epochs=10))
>>> match = match_features(scaling(table), trained.som)
>>> match.bmu.shape, bool(match.distance.mean() < 0.4)
((20000,), True)
>>> labels = row_labels(cluster_neurons(trained.som, 4, counts=trained.counts), match.bmu)
>>> int(labels.max())
3
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from skysom.engine.errors import EngineError, LatticeError, ShapeError
from skysom.engine.lattice import Lattice

Array = Any
Rows = Any
Method = Literal["exact", "reference"]

PIECE_ROWS = 8192
"""Rows matched at a time: distances to all neurons are never held for more."""
LARGEST_SQUARE = 1e37
"""Squares of rows and neurons beyond it could overflow on the way to a score."""


@dataclass(frozen=True)
class FeatureSom:
    """Neurons ``weights`` (N, F) float32 in the order of ``lattice``.

    Raises ShapeError where the weights are not vectors of at least one feature, LatticeError where N is not the
    lattice's, EngineError where a weight is not finite.
    """

    weights: Array
    lattice: Lattice

    def __post_init__(self) -> None:
        from array_api_compat import array_namespace

        shape = tuple(self.weights.shape)
        if len(shape) != 2 or shape[1] < 1:
            raise ShapeError(f"weights have shape {shape}; a feature map needs (neurons, features)")
        if shape[0] != self.lattice.size:
            raise LatticeError(f"weights hold {shape[0]} neurons, {self.lattice} has {self.lattice.size}")
        xp = array_namespace(self.weights)
        if not bool(xp.all(xp.isfinite(self.weights))):
            raise EngineError("some weights are not finite; start from finite rows, see `sample_rows`")

    @property
    def features(self) -> int:
        """F, the number of features."""
        return int(self.weights.shape[1])


@dataclass(frozen=True)
class FeatureMatch:
    """Best-matching unit ``bmu`` (B,) int64 of each row and its Euclidean ``distance`` (B,) float32.

    Rows that are not finite have bmu -1 and distance NaN.
    """

    bmu: Array
    distance: Array


def match_features(vectors: Array, som: FeatureSom, method: Method = "exact") -> FeatureMatch:
    """Best-matching unit of every row: the neuron of the smallest distance, the lowest index of equal ones.

    Parameters
    ----------
    vectors : (B, F) float32; NumPy (compiled loops) or any array namespace, which must be that of the weights.
    method : "exact", or "reference": direct sums for every pair. The results are the same, bit for bit.

    Raises
    ------
    ShapeError : vectors that are no rows of F features.

    Notes
    -----
    Distances are direct sums of squares in float64, over the features in order. "exact" ranks by
    d^2 = |x|^2 + |w|^2 - 2 <x, w> in float32 and takes the direct sums of all neurons where the two best are nearer
    than rounding can be wrong, see `FeatureSearch`. Never more than 8,192 rows meet all neurons at a time.
    """
    from array_api_compat import array_namespace

    if method not in get_args(Method):
        raise EngineError(f"method is {method!r}; use one of {get_args(Method)}")
    check_rows(vectors, som.features)
    xp = array_namespace(vectors, som.weights)
    search = FeatureSearch(som.weights, xp=xp)
    find = search.reference if method == "reference" else search
    count = int(vectors.shape[0])
    found = [find(vectors[first : min(first + PIECE_ROWS, count), :]) for first in range(0, max(count, 1), PIECE_ROWS)]
    return FeatureMatch(*(xp.concat([getattr(match, name) for match in found]) for name in ("bmu", "distance")))


class FeatureSearch:
    """The search against one map: what depends on the map alone is made once, pieces of rows come and go.

    weights (N, F) finite float32. Calling it on vectors (B, F) float32 returns their FeatureMatch.

    Notes
    -----
    With x and w taken from the mean c of the neurons, so that offsets do not cancel, the neuron of the smallest score
    h_n - <x, w_n>, h_n = |w_n|^2 / 2, is the best. A computed score is wrong by at most
    k u (2 h_n + |x|^2 / 2), u = 2^-24, for any order of summation with k = F + 5 (Higham, Accuracy and Stability of
    Numerical Algorithms, 2nd ed., section 3.1, and |x||w| <= (|x|^2 + |w|^2) / 2); k = F + 8 leaves room for the
    test itself. With 2 k u h_n taken off every score, the best neuron is certain where the second best score lies more
    than k u (|x|^2 + 4 h_best) above it. All other rows, as a rule one in a thousand, are searched by direct sums,
    and so are those whose squares might overflow.
    """

    def __init__(self, weights: Array, *, xp: Any = np) -> None:
        neurons, features = weights.shape
        if neurons >= 1 << 24:
            raise ShapeError(f"the map has {neurons} neurons; this search counts to {1 << 24}")
        self.xp, self.compiled = xp, isinstance(weights, np.ndarray)
        self.weights = xp.astype(xp.astype(weights, xp.float32), xp.float64)
        self.center = xp.astype(xp.mean(self.weights, axis=0), xp.float32)
        centred, unit = self.weights - xp.astype(self.center, xp.float64), (features + 8) * 2.0**-24
        halves = xp.sum(centred**2, axis=1) * (0.5 - unit)
        self.centred = xp.astype(xp.clip(centred, -LARGEST_SQUARE, LARGEST_SQUARE), xp.float32)
        self.halves = xp.astype(xp.clip(halves, 0, LARGEST_SQUARE), xp.float32)
        fits = bool(xp.all(halves < LARGEST_SQUARE))
        self.rounding = np.float32(unit if fits else np.inf)
        self.smallest = np.float32((features + 8) * np.finfo(np.float32).tiny)
        if self.compiled:
            empty = -neurons % 4
            self.columns = np.ascontiguousarray(self.weights.T)
            self.padded = np.concatenate([self.centred, np.zeros((empty, features), np.float32)])
            self.padded_halves = np.concatenate([self.halves, np.full(empty, np.inf, np.float32)])

    def __call__(self, vectors: Array) -> FeatureMatch:
        check_rows(vectors, self.centred.shape[1])
        vectors = self.xp.astype(vectors, self.xp.float32, copy=False)
        if not self.compiled:
            return self._portable(vectors)
        from skysom.engine import feature_kernels

        bmu, distance = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
        feature_kernels.match_rows(
            np.ascontiguousarray(vectors), self.center, self.padded, self.padded_halves, self.columns,
            self.rounding, self.smallest, bmu, distance,
        )  # fmt: skip
        return FeatureMatch(bmu, distance)

    def scores(self, vectors: Array) -> tuple[Array, Array]:
        """Scores (B, N) and |x - c|^2 (B,), float32, of vectors (B, F): half of d^2 - |x - c|^2, to rounding."""
        x = vectors - self.center
        return self.halves - x @ self.centred.T, self.xp.sum(x * x, axis=1)

    def reference(self, vectors: Array) -> FeatureMatch:
        """FeatureMatch of vectors (B, F) by direct sums for all neurons."""
        xp = self.xp
        vectors, finite = self._finite(xp.astype(vectors, xp.float32, copy=False))
        return self._measured(vectors, finite, self._direct(vectors))

    def _portable(self, vectors: Array) -> FeatureMatch:
        xp = self.xp
        vectors, finite = self._finite(vectors)
        scores, norms = self.scores(vectors)
        bmu = xp.argmin(scores, axis=1)
        margin = float(self.rounding) * (norms + 4 * xp.take(self.halves, bmu)) + float(self.smallest)
        near = scores - xp.min(scores, axis=1)[:, None] <= margin[:, None]
        certain = (xp.sum(xp.astype(near, xp.int64), axis=1) == 1) & (norms < LARGEST_SQUARE)
        (doubtful,), (sure,) = xp.nonzero(~certain), xp.nonzero(certain)
        found = self._direct(xp.take(vectors, doubtful, axis=0))
        places = xp.argsort(xp.concat([doubtful, sure]))
        return self._measured(vectors, finite, xp.take(xp.concat([found, xp.take(bmu, sure)]), places))

    def _finite(self, vectors: Array) -> tuple[Array, Array]:
        """Vectors with rows that are not finite set to zero, and which are finite (B,)."""
        finite = self.xp.all(self.xp.isfinite(vectors), axis=1)
        return self.xp.where(finite[:, None], vectors, self.xp.zeros_like(vectors)), finite

    def _direct(self, vectors: Array) -> Array:
        if vectors.shape[0] == 0:
            return self.xp.zeros((0,), dtype=self.xp.int64)
        return self.xp.argmin(self._squares(vectors[:, None, :], self.weights[None, :, :]), axis=1)

    def _measured(self, vectors: Array, finite: Array, bmu: Array) -> FeatureMatch:
        xp = self.xp
        squares = self._squares(vectors, xp.take(self.weights, bmu, axis=0))
        distance = xp.astype(xp.sqrt(squares), xp.float32)
        return FeatureMatch(
            xp.where(finite, bmu, xp.full_like(bmu, -1)), xp.where(finite, distance, xp.full_like(distance, xp.nan))
        )

    def _squares(self, vectors: Array, weights: Array) -> Array:
        """Sums of squares in float64, the features one after another, as the compiled loop adds them."""
        total = 0.0
        for f in range(weights.shape[-1]):
            difference = self.xp.astype(vectors[..., f], self.xp.float64) - weights[..., f]
            total = total + difference * difference
        return total


def check_rows(vectors: Array, features: int) -> None:
    """ShapeError unless ``vectors`` are rows (B, F) of that many features."""
    shape = tuple(vectors.shape)
    if len(shape) != 2 or shape[1] != features:
        raise ShapeError(f"rows have shape {shape}, the map has {features} features; rows must be (rows, {features})")


def check_rereadable(rows: Rows) -> None:
    """EngineError where ``rows`` could be read only once."""
    if isinstance(rows, Iterator):
        raise EngineError("rows are an iterator, which can be read once; give a function that returns one")


def pieces(rows: Rows, dtype: type = np.float32) -> Iterator[np.ndarray]:
    """Pieces (b, F) of ``dtype``, contiguous, of at most 8,192 rows.

    rows : an array (B, F) (in memory, memory-mapped or of a Zarr store), a list of such arrays, or a function that
    returns an iterable of them: what does not fit in memory is read again in every pass. Raises ShapeError for other
    shapes. What is too large for ``dtype`` becomes infinite.
    """
    chunks = [rows] if hasattr(rows, "shape") else rows() if callable(rows) else rows
    for chunk in chunks:
        if len(chunk.shape) != 2:
            raise ShapeError(f"a chunk has shape {tuple(chunk.shape)}; it must be (rows, features)")
        for first in range(0, chunk.shape[0], PIECE_ROWS):
            with np.errstate(over="ignore"):
                piece: np.ndarray = np.ascontiguousarray(chunk[first : first + PIECE_ROWS], dtype)
            yield piece
