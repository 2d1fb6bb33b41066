"""What surrounds a feature map: scales, starting maps, clusters of neurons, and whether a map lies unfolded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.feature_training import LIMBS, as_float
from skysom.engine.features import FeatureSearch, FeatureSom, Rows, check_rereadable, pieces
from skysom.engine.lattice import Lattice

NEIGHBOUR_STEPS = 1.5
"""Neurons nearer than this are neighbours: six on a hexagonal map, eight on a square one."""


@dataclass(frozen=True)
class Scaling:
    """Features as a map sees them: (x - center) / scale, center and scale (F,) float64.

    A feature counts twice as much where its scale is halved.
    """

    center: np.ndarray
    scale: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Scaled rows (B, F) float32 of rows (B, F)."""
        return ((vectors - self.center) / self.scale).astype(np.float32)

    def over(self, rows: Rows) -> Callable[[], Iterator[np.ndarray]]:
        """All ``rows`` (see `features.pieces`), scaled piece by piece whenever they are read.

        Raises EngineError where they can be read only once.
        """
        check_rereadable(rows)
        return lambda: (self(piece) for piece in pieces(rows, np.float64))

    def restore(self, vectors: np.ndarray) -> np.ndarray:
        """Rows or neurons (B, F) float64 in the units of the catalogue."""
        return vectors * self.scale + self.center


def standardisation(rows: Rows) -> Scaling:
    """The scaling to mean 0 and standard deviation 1, from two passes over ``rows`` (see `features.pieces`).

    Rows that are not finite are left out; a constant feature keeps its scale. The result does not depend on order
    or chunks. Raises EngineError where no row is finite, or rows can be read only once.
    """
    check_rereadable(rows)
    count, limbs, low, high = 0, None, np.inf, -np.inf
    for piece in map(_finite, pieces(rows, np.float64)):
        coarse = piece.astype(np.float32)
        limbs = _added(_added(limbs, coarse), (piece - coarse).astype(np.float32))
        count += len(piece)
        if len(piece):
            low, high = np.minimum(low, piece.min(axis=0)), np.maximum(high, piece.max(axis=0))
    if limbs is None or count == 0:
        raise EngineError("no row is finite; clean the table, or leave out the features that are always missing")
    center = np.where(low == high, low, as_float(limbs)[0] / count)
    # In units of the largest deviation no square overflows, and none that matters vanishes.
    peak = np.maximum(high - center, center - low)
    peak[low == high] = 1
    squares = np.zeros_like(limbs)
    for piece in map(_finite, pieces(rows, np.float64)):
        _added(squares, (((piece - center) / peak) ** 2).astype(np.float32))
    scale = peak * np.sqrt(as_float(squares)[0] / count)
    return Scaling(center, np.where(low == high, 1.0, scale))


def _finite(piece: np.ndarray) -> np.ndarray:
    """The rows of a piece that are finite numbers of float32."""
    return piece[(np.abs(piece) <= np.finfo(np.float32).max).all(axis=1)]


def _added(limbs: np.ndarray | None, piece: np.ndarray) -> np.ndarray:
    """Exact sums (32, 1, F) of all rows of ``piece`` (b, F) float32, on top of ``limbs``."""
    from skysom.engine import feature_kernels

    limbs = np.zeros((LIMBS, 1, piece.shape[1]), np.int64) if limbs is None else limbs
    feature_kernels.add_exactly(limbs, np.zeros(len(piece), np.int64), piece.view(np.int32))
    return limbs


def sample_rows(rows: Rows, count: int, seed: int) -> np.ndarray:
    """``count`` different finite rows (count, F) float32, at random and in random order, from one pass.

    Row i draws the i-th number of the generator and those with the smallest are taken: the sample depends on ``seed``
    and the order of ``rows`` (see `features.pieces`), not on chunks. As weights (N, F) they start a map. Raises
    EngineError where fewer rows are finite, or for a count below 0.
    """
    if count < 0:
        raise EngineError(f"a sample of {count} rows is asked for; take 0 or more")
    rng = np.random.default_rng(seed)
    keys, kept, limit = np.zeros(0), None, np.inf
    for piece in pieces(rows):
        key = rng.random(len(piece))
        new = np.isfinite(piece).all(axis=1) & (key < limit)
        keys = np.concatenate([keys, key[new]])
        kept = piece[new] if kept is None else np.concatenate([kept, piece[new]])
        if len(keys) > count > 0:
            least = np.argpartition(keys, count - 1)[:count]
            keys, kept, limit = keys[least], kept[least], keys[least].max()
    if kept is None or count > len(keys):
        raise EngineError(f"{len(keys)} rows are finite, {count} are wanted; take a smaller sample or map")
    return kept[np.argsort(keys)[:count]]


def pca_plane(sample: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Weights (N, F) float32 on the plane of the principal components of ``sample`` (M, F): a map that lies unfolded.

    The longest side of the lattice follows the component of the largest variance, and so on; a side reaches from -2
    to 2 standard deviations around the mean. A component points to where its largest element is positive. Raises
    ShapeError for a sample without rows.

    Notes
    -----
    Linear initialisation, Kohonen, Self-Organizing Maps, 3rd ed., section 3.7.
    """
    if sample.ndim != 2 or len(sample) == 0:
        raise ShapeError(f"the sample has shape {sample.shape}; it must be (rows, features), with one row or more")
    mean = sample.mean(axis=0, dtype=np.float64)
    deviations = sample - mean
    variances, components = np.linalg.eigh(deviations.T @ deviations / len(sample))
    steps = np.sqrt(np.maximum(variances, 0)) * components
    steps = steps.T[::-1]
    steps *= np.sign(steps[np.arange(len(steps)), np.abs(steps).argmax(axis=1)])[:, None]
    places = _plane_positions(lattice)
    extents = np.abs(places).max(axis=0)
    weights = np.tile(mean, (lattice.size, 1))
    for side, step in zip(np.argsort(-extents, kind="stable"), steps, strict=False):
        if extents[side] > 0:
            weights += 2 * places[:, side, None] / extents[side] * step
    return weights.astype(np.float32)


def _plane_positions(lattice: Lattice) -> np.ndarray:
    """(N, 3) float64 positions around their middle, in lattice steps; those of a hexagonal map in Cartesian axes."""
    places = lattice.positions().astype(np.float64)
    if lattice.kind == "hexagonal":
        row, column = places[:, 0].copy(), places[:, 1].copy()
        places[:, 0], places[:, 1] = row * np.sqrt(0.75), column + row / 2
    return places - (places.max(axis=0) + places.min(axis=0)) / 2


def cluster_neurons(som: FeatureSom, clusters: int, *, counts: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Cluster (N,) int64 of every neuron, by k-means on the weights (scikit-learn, the best of ten starts).

    counts : (N,), how much each neuron weighs, e.g. its rows; default all the same. Clusters are numbered in the order
    in which neurons first meet them. Raises EngineError where there are not as many different neurons that count.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    weights = np.asarray(som.weights, np.float64)
    counted = weights if counts is None else weights[np.asarray(counts) > 0]
    different = len(np.unique(counted, axis=0))
    if not 1 <= clusters <= different:
        raise EngineError(f"{clusters} clusters are wanted of {different} different neurons; take 1 to {different}")
    with threadpool_limits(1):  # sums of several threads would be rounded in any order
        found = KMeans(clusters, n_init=10, random_state=seed).fit(weights, sample_weight=counts).labels_
    _, first, label = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label].astype(np.int64)


def row_labels(labels: np.ndarray, bmu: np.ndarray) -> np.ndarray:
    """Labels (B,) of rows whose best-matching units are ``bmu`` (B,): that of the neuron in ``labels`` (N,) int.

    Rows without a unit (bmu -1) get -1.
    """
    return np.where(bmu < 0, -1, labels[bmu])


def topographic_error(rows: Rows, som: FeatureSom) -> float:
    """Share of ``rows`` (see `features.pieces`) whose two nearest neurons are no neighbours on the lattice.

    Neighbours are less than 1.5 lattice steps apart. The second neuron is found in float32. NaN without finite rows.

    Notes
    -----
    Kiviluoto, Topology preservation in self-organizing maps, 1996.
    """
    search, apart = FeatureSearch(np.asarray(som.weights)), som.lattice.distances() > NEIGHBOUR_STEPS
    errors, total = 0, 0
    for piece in map(_finite, pieces(rows)):
        best, scores = search(piece).bmu, search.scores(piece)[0]
        scores[np.arange(len(piece)), best] = np.inf
        errors += int(apart[best, scores.argmin(axis=1)].sum())
        total += len(piece)
    return errors / total if total else float("nan")
