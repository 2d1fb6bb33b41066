"""Orders in which sources use their masks: rank (n,) int64 over the base rows, 0 first, -1 for rows that are no source.

The grouping is greedy, so the order decides which masks are used. Every order is total: what compares as equal goes by
row number, and missing values (NaN) come last. In all of them

neuron : (n,) integers, the best-matching unit of every row, -1 for none; such rows are no source.
sources : (n,) bool, which rows may be one; None means all.

Source of the orders: specs/pyink.md, section 6. The peer lists every source of a neuron twice in `largest_first` and
`area_ratio`, and leaves equal values to its sort.
"""

from collections.abc import Iterable

import numpy as np

from skysom.engine.errors import CollationError

RANDOM_PURPOSE = 7
"""Keeps the random numbers of an order apart from those of other choices with the same seed."""


def best_matching_first(
    distance: np.ndarray, neuron: np.ndarray | None = None, *, sources: np.ndarray | None = None
) -> np.ndarray:
    """Rank by distance (n,) to the best-matching unit, the smallest first; of equal ones the lowest row first.

    Raises CollationError where lengths differ, as do all orders.
    """
    distance = np.asarray(distance)
    return _rank([distance], _usable(len(distance), neuron, sources))


def largest_first(
    extent_pixels: np.ndarray,
    neuron: np.ndarray,
    distance: np.ndarray | None = None,
    *,
    sources: np.ndarray | None = None,
) -> np.ndarray:
    """Rank by the extent of the neuron's mask, the largest first; of one neuron by ``distance`` (n,), or by row.

    extent_pixels : (N,) float, such as `neuron_extents`; NaN or -1 (an empty mask) come last. Neurons of equal extent
        stay together, the lowest first.
    """
    return _by_neuron(extent_pixels, neuron, distance, sources)


def area_ratio(
    ratio: np.ndarray, neuron: np.ndarray, distance: np.ndarray | None = None, *, sources: np.ndarray | None = None
) -> np.ndarray:
    """Rank by the ratio of two areas of the neuron's mask, the largest first; within a neuron as `largest_first`.

    ratio : (N,) float, such as `neuron_area_ratios`; NaN comes last.
    """
    return _by_neuron(ratio, neuron, distance, sources)


def random(rows: int, seed: int, *, sources: np.ndarray | None = None) -> np.ndarray:
    """Rank by the random number of every row: row i has the i-th of ``seed``, however many rows there are.

    Raises CollationError for rows or a seed below 0, and where lengths differ.
    """
    if rows < 0 or seed < 0:
        raise CollationError(f"a random order of {rows} rows with seed {seed} cannot be drawn; give both from 0")
    values = np.random.default_rng([seed, RANDOM_PURPOSE]).random(rows)
    return _rank([values], _usable(rows, None, sources))


def by_values(values: np.ndarray, *, descending: bool = False, sources: np.ndarray | None = None) -> np.ndarray:
    """Rank by values (n,) of any numeric kind, ascending or descending; NaN last, equal ones by row, in both."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise CollationError(f"an order needs numbers, these are {values.dtype}; give a numeric column or expression")
    return _rank([_reversed(values) if descending else values], _usable(len(values), None, sources))


def neuron_extents(planes: np.ndarray, channel: int = 0) -> np.ndarray:
    """(N,) float64 pixels: the largest distance of two labelled pixels of each neuron, -1 for an empty mask.

    planes : (N, C, D, D) uint64, bit p is label p. Equal to the peer's centre-to-centre distance.
    """
    from skysom.engine.reading.mask_metrics import largest_distance

    return np.array([largest_distance(mask)[0] for mask in _channel(planes, channel) != 0], np.float64)


def neuron_area_ratios(
    planes: np.ndarray,
    first: int = 0,
    second: int = 1,
    includes: Iterable[int] | None = None,
    excludes: Iterable[int] | None = None,
) -> np.ndarray:
    """(N,) float64: labelled area in channel ``first`` over that in channel ``second``; see `mask_metrics.area_ratio`.

    planes : (N, C, D, D) uint64. includes, excludes : label numbers.
    """
    from skysom.engine.reading.mask_metrics import area_ratio as ratio

    kept = [None if labels is None else tuple(labels) for labels in (includes, excludes)]
    pairs = zip(_words(_channel(planes, first)), _words(_channel(planes, second)), strict=True)
    return np.array([ratio(one, two, *kept) for one, two in pairs], np.float64)


def _channel(planes: np.ndarray, channel: int) -> np.ndarray:
    if planes.ndim != 4 or not 0 <= channel < planes.shape[1]:
        raise CollationError(f"the order looks at channel {channel} of masks {planes.shape}; give (N, C, D, D) with it")
    return planes[:, channel]


def _words(planes: np.ndarray) -> np.ndarray:
    """The bit planes (..., 8) uint8 of planes (...) uint64."""
    return np.ascontiguousarray(planes, "<u8")[..., None].view(np.uint8)


def _by_neuron(
    value: np.ndarray, neuron: np.ndarray, distance: np.ndarray | None, sources: np.ndarray | None
) -> np.ndarray:
    value, neuron = np.asarray(value, np.float64), np.asarray(neuron)
    if neuron.max(initial=-1) >= len(value):
        raise CollationError(
            f"a row has neuron {neuron.max()}, there are values of {len(value)}; give the masks of this map"
        )
    if distance is not None and np.shape(distance) != neuron.shape:
        raise CollationError(
            f"there are {np.shape(distance)} distances and {neuron.shape} neurons; give one each a row"
        )
    place = np.empty(len(value), np.int64)
    place[np.argsort(-value, kind="stable")] = np.arange(len(value))
    keys = [] if distance is None else [np.asarray(distance)]
    first = place[neuron] if len(value) else np.zeros(len(neuron), np.int64)
    return _rank([*keys, first], _usable(len(neuron), neuron, sources))


def _usable(rows: int, neuron: np.ndarray | None, sources: np.ndarray | None) -> np.ndarray:
    usable = np.ones(rows, bool)
    for name, given in (("neurons", neuron), ("sources", sources)):
        if given is None:
            continue
        if np.shape(given) != (rows,):
            raise CollationError(f"the order is of {rows} rows, its {name} of {np.shape(given)}; give one each a row")
        usable &= np.asarray(given) >= 0 if name == "neurons" else np.asarray(given, bool)
    return usable


def _rank(keys: list[np.ndarray], usable: np.ndarray) -> np.ndarray:
    """Ranks of the usable rows by ``keys``, the last one first; lexsort is stable and puts NaN last."""
    rows = np.flatnonzero(usable)
    order = rows[np.lexsort([key[rows] for key in keys])]
    rank = np.full(len(usable), -1, np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _reversed(values: np.ndarray) -> np.ndarray:
    """Values in the opposite order, NaN still last; whole numbers by their complement, which never overflows."""
    return -values if values.dtype.kind == "f" else ~values
