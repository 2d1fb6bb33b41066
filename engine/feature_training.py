"""Training of the feature map: the batch algorithm, one pass over all rows an epoch.

Every neuron becomes the mean of all rows, weighted with the neighbourhood of their best-matching units (Kohonen,
Self-Organizing Maps, 3rd ed., section 3.6):

    w_n <- sum_b F[b, n] S_b / sum_b F[b, n] c_b,      S_b, c_b: sum and number of the rows whose unit is b

so a pass leaves N sums. These are exact: a map does not depend, in any bit, on the order of the rows, how they are
cut into chunks, or how many workers add them up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skysom.engine.errors import EngineError, NeighbourhoodError
from skysom.engine.features import PIECE_ROWS, FeatureSearch, FeatureSom, Rows, check_rereadable, pieces
from skysom.engine.lattice import Lattice
from skysom.engine.neighbourhood import Kind, Neighbourhood

LIMBS = 32
"""Integers that hold a sum of float32 exactly; limb k counts 2^(8 k - 149)."""
MOST_ROWS = 1 << 32
"""More rows could overflow a limb."""


@dataclass(frozen=True)
class FeatureSums:
    """What a pass over rows leaves for each of N units; passes over parts of the rows are added with ``+``.

    limbs (32, N, F) int64: exact sums of the rows, distance_limbs (32, N, 1) int64: of their distances;
    counts (N,) int64; invalid: rows that are not finite, which are in no sum.
    """

    limbs: np.ndarray
    distance_limbs: np.ndarray
    counts: np.ndarray
    invalid: int = 0

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        return FeatureSums(
            self.limbs + other.limbs,
            self.distance_limbs + other.distance_limbs,
            self.counts + other.counts,
            self.invalid + other.invalid,
        )

    def sums(self) -> np.ndarray:
        """S (N, F) float64, within 2^-47 of the sum of absolute values however many rows there were.

        Raises EngineError beyond 2^32 rows.
        """
        if (total := int(self.counts.sum())) > MOST_ROWS:
            raise EngineError(f"{total} rows were added up, sums hold {MOST_ROWS}; train on a part of them")
        return as_float(self.limbs)

    @property
    def quantisation_error(self) -> float:
        """Mean distance of a row to its best-matching unit; NaN where there was no row."""
        total = int(self.counts.sum())
        return float(as_float(self.distance_limbs).sum() / total) if total else float("nan")


def as_float(limbs: np.ndarray) -> np.ndarray:
    """Values (...) float64 of exact sums ``limbs`` (32, ...) int64."""
    total = np.zeros(limbs.shape[1:])
    for k, limb in enumerate(limbs):
        total += limb * 2.0 ** (8 * k - 149)
    return total


def feature_sums(rows: Rows, som: FeatureSom) -> FeatureSums:
    """One pass: match all ``rows`` (see `pieces`) against one map (NumPy) and add them up, exactly.

    A float32 is split into an integer and a power of two and added to one of 32 integers, so the result is the same
    for any order, chunks and workers. Raises ShapeError for rows of another number of features.
    """
    from skysom.engine import feature_kernels

    search, neurons = FeatureSearch(np.asarray(som.weights)), som.lattice.size
    limbs, distance_limbs = (np.zeros((LIMBS, neurons, width), np.int64) for width in (som.features, 1))
    counts, invalid = np.zeros(neurons, np.int64), 0
    for piece in pieces(rows):
        match = search(piece)
        feature_kernels.add_exactly(limbs, match.bmu, piece.view(np.int32))
        feature_kernels.add_exactly(distance_limbs, match.bmu, match.distance.view(np.int32)[:, None])
        found = np.bincount(match.bmu + 1, minlength=neurons + 1)
        counts += found[1:]
        invalid += int(found[0])
    return FeatureSums(limbs, distance_limbs, counts, invalid)


def moved_map(
    som: FeatureSom, sums: FeatureSums, neighbourhood: Neighbourhood, distances: np.ndarray | None = None
) -> FeatureSom:
    """The map after an epoch that left ``sums``; a neuron that no row reaches stays.

    distances : of the lattice, (N, N) float32, where they are at hand. The rate of ``neighbourhood`` cancels. Raises
    NeighbourhoodError where a factor is negative.
    """
    factors = neighbourhood(som.lattice.distances() if distances is None else distances)
    if float(factors.min()) < 0:
        raise NeighbourhoodError(
            f"{neighbourhood.kind} has factors down to {factors.min():.3g}; a weighted mean needs 0 or more: "
            "take gaussian or unity_gaussian"
        )
    factors = factors.T.astype(np.float64)
    total = factors @ sums.counts.astype(np.float64)
    weights = np.array(som.weights, np.float32)
    reached = total > 0
    weights[reached] = (factors @ sums.sums())[reached] / total[reached, None]
    return FeatureSom(weights, som.lattice)


def sigma_schedule(
    first_sigma: float, last_sigma: float, epochs: int, kind: Kind = "unity_gaussian"
) -> list[Neighbourhood]:
    """Neighbourhoods of ``epochs`` epochs, sigma (lattice steps) falling linearly from first to last."""
    return [Neighbourhood(kind, float(sigma), 1.0) for sigma in np.linspace(first_sigma, last_sigma, epochs)]


@dataclass(frozen=True)
class FeatureTraining:
    """A trained map, and what each epoch met before it moved the map.

    som; quantisation_error (epochs,) float64; counts (N,) int64 and invalid: rows of each unit, and rows that are
    not finite, in the last epoch.
    """

    som: FeatureSom
    quantisation_error: np.ndarray
    counts: np.ndarray
    invalid: int


def train_features(
    rows: Rows,
    som: FeatureSom,
    neighbourhoods: Sequence[Neighbourhood],
    *,
    callback: Callable[[int, FeatureSums], None] | None = None,
) -> FeatureTraining:
    """Train ``som`` by the batch algorithm, one pass over all rows for each of ``neighbourhoods``.

    Parameters
    ----------
    rows : (B, F) float32, NumPy, or chunks of them, see `pieces`; not an iterator, which could be read only once.
    neighbourhoods : one an epoch, as `sigma_schedule` gives, or ``[Neighbourhood(...)] * epochs``.
    callback : called with the number of the epoch, from 0, and its sums.

    Raises
    ------
    ShapeError, NeighbourhoodError : rows or neighbourhoods that cannot be trained on.
    EngineError : rows that can be read only once, or that are others in the next epoch.

    Notes
    -----
    The result is the same bit for bit for any order and any chunks of the rows, on one kind of hardware.
    """
    check_rereadable(rows)
    distances, errors = som.lattice.distances(), []
    counts, invalid = np.zeros(som.lattice.size, np.int64), 0
    for epoch, neighbourhood in enumerate(neighbourhoods):
        sums = feature_sums(rows, som)
        met = int(sums.counts.sum())
        if epoch and met != counts.sum():
            raise EngineError(f"epoch {epoch} met {met} finite rows, the one before {counts.sum()}; rows must stay")
        som = moved_map(som, sums, neighbourhood, distances)
        errors.append(sums.quantisation_error)
        counts, invalid = sums.counts, sums.invalid
        if callback is not None:
            callback(epoch, sums)
        del sums  # or there would be two of them in the next epoch
    return FeatureTraining(som, np.array(errors), counts, invalid)


def feature_memory(lattice: Lattice, features: int) -> int:
    """Peak bytes of arrays of `train_features`; rows that the caller holds come on top.

    Notes
    -----
    The largest of three, for N neurons and F features, with sums = 256 N (F + 1) + 28 N F:

        distances of the lattice   57 N^2 (73 where it is periodic; hexagonal: 41 and 65)
        searching                  4 N^2 + sums + 8192 (8 F + 16): two pieces, converted, and their matches
        moving the map             16 N^2 + sums
    """
    n, square = lattice.size, lattice.size**2
    building = {"cartesian": (57, 73), "hexagonal": (41, 65)}[lattice.kind][lattice.periodic]
    sums = 8 * LIMBS * n * (features + 1) + 28 * n * features
    searching = 4 * square + sums + PIECE_ROWS * (8 * features + 16)
    return max(building * square, searching, 16 * square + sums)
