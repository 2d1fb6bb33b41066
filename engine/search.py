"""The best-matching unit of every image: `best_match` and the exact paths behind it.

``reference`` makes every transform and sums squares (tests, tiny inputs). ``exact`` is the dihedral
path of ARCHITECTURE.md: d^2 = |r|^2 + |w|^2 - 2 <r, w>, with the inner products as matrix products
over orbits, and a direct sum of squares wherever that difference cancels and for the BMU. What most
neurons share (a sky background, the core of a source) is subtracted from r and w before, so that it does
not cancel; where an image is a neuron, nearly, its inner products are computed again in float64.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skysom.engine import dihedral, transforms
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, as_match, check_shapes, empty_match, finite_images, joined
from skysom.engine.som import Som

if TYPE_CHECKING:
    from skysom.engine.certified import Calibration

Array = Any
Method = Literal["certified", "exact", "polar", "reference"]

BLOCK_IMAGES = 32
"""Images searched together. The shape of a matrix product decides its rounding, so it is fixed."""
CANCELLATION = 0.05
"""d^2 below this share of |r|^2 + |w|^2 is computed again as a direct sum."""
NEAR_PERFECT = 4e-3
"""d^2 below this share is searched again in float64: rounding of the products could pick the wrong transform."""
DOUBLE_TIE = 1e-14
"""Transforms within this share of |r|^2 + |w|^2 of the best are equal in float64; the lowest is taken."""
NEAR_TIE = 2e-6
"""Candidates within this share of |r|^2 + |w|^2 of the best are decided by direct sums."""
PANEL_BYTES = 16 << 20
"""Most bytes of the spectra, and of the products, of one block of rotations: a share of the last cache."""

DOUBLE_NEURONS = 32
"""Neurons whose spectra are made in float64 at a time."""
FRAMES_KEPT = 512
"""Base rotations whose interpolation of a whole frame is kept."""


def best_match(
    images: Array,
    som: Som,
    rotations: int = 360,
    flip: bool = True,
    region: str = "quadratic",
    region_side: int | None = None,
    method: Method | None = None,
    calibration: "Calibration | None" = None,
    exact_neurons: int = 1,
    channel_weights: Sequence[float] | None = None,
    inner_side: int = 0,
) -> Match:
    """Best transform and distance of every image to every neuron, and the best-matching unit.

    Parameters
    ----------
    images : (B, C, H, W) or (B, H, W) float32, square; NumPy or any array namespace.
    som : the map; its weights must be of the images' namespace.
    rotations : 1 or a multiple of 4; flip : whether mirror images count as equal.
    region : "quadratic", "circular" or "annular"; region_side in pixels, default as `Geometry.derive`.
    method : "certified" (the BMU, its distance and transform are those of the exact search, up to a stated rate of
        misses; distances of other neurons are approximate, see ``Match.exact``), "exact" (all distances), "polar"
        (distances of its own, unbiased in angle) or "reference" (every transform made: hundreds of times slower).
        Default: "certified" with a calibration, "exact" without one.
    calibration : of ``certified``, by `calibrate`; without one a wide margin is used.
    exact_neurons : of ``certified``: the distances of so many neurons, those with the best scores, are found exactly
        within the margin too; the calibration's rate of misses does not cover them.
    channel_weights : C factors on the squared differences of each channel, default 1.
    inner_side : pixels; the annular region is the circular one without that of this side.

    Raises
    ------
    ShapeError, GeometryError : arrays or sides that do not fit together.
    EngineError : an unknown method; ``polar`` or ``certified`` on arrays that are not NumPy's.

    Notes
    -----
    Distance is sqrt(sum over region and channels of (T_t x - w)^2), minimised over t. An image with
    NaN has NaN distances, transform 0 and BMU 0. Images are searched in blocks of 32; cut otherwise, distances
    (but for the BMU's) may differ by rounding.
    """
    from array_api_compat import array_namespace

    images = as_batch(images)
    geometry = geometry_of(images, som, rotations, flip, region, region_side, inner_side)
    xp = array_namespace(images, som.weights)
    if method is None:
        method = "exact" if calibration is None else "certified"
    if channel_weights is not None:
        images, som = weighted(images, som, channel_weights, xp=xp)
    if method == "reference":
        return _reference(images, som, geometry, xp=xp)
    search = searcher(som.weights, geometry, method, calibration, exact_neurons, xp=xp)
    count, block = images.shape[0], getattr(search, "block_images", BLOCK_IMAGES)
    blocks = [search(images[first : min(first + block, count), ...]) for first in range(0, count, block)]
    return joined(blocks, xp=xp) if blocks else empty_match(som.weights.shape[0], xp=xp)


def searcher(
    weights: Array,
    geometry: Geometry,
    method: Method = "certified",
    calibration: "Calibration | None" = None,
    exact_neurons: int = 1,
    *,
    xp: Any = np,
) -> Callable[[Array], Match]:
    """The search of ``method`` against weights (N, C, D, D): call it on blocks of at most 32 images.

    Arguments and errors as of `best_match`; "reference" has no tables to make and is not among them.
    """
    if method == "exact":
        from skysom.engine import cuda

        return cuda.device_search(weights, geometry) if cuda.is_on_device(weights) else Search(weights, geometry, xp=xp)
    if method == "polar":
        from skysom.engine.polar import PolarSearch

        return PolarSearch(weights, geometry)
    if method != "certified":
        raise EngineError(f"method is {method!r}; use 'certified', 'exact' or 'polar' (best_match: or 'reference')")
    from skysom.engine.certified import DEFAULT_MARGIN, CertifiedSearch

    margin = DEFAULT_MARGIN if calibration is None else calibration.margin
    return CertifiedSearch(weights, geometry, margin, exact_neurons)


def weighted(images: Array, som: Som, channel_weights: Sequence[float], *, xp: Any) -> tuple[Array, Som]:
    """Images and map with each channel scaled so that squared differences are weighted."""
    weights = np.asarray(channel_weights, np.float64)
    if weights.shape != (som.channels,) or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ShapeError(
            f"channel_weights are {list(channel_weights)}; give {som.channels} numbers that are not negative"
        )
    scale, kept = xp.asarray(np.sqrt(weights).astype(np.float32).reshape(1, -1, 1, 1)), xp.asarray(weights > 0)
    parts = (xp.where(kept[None, :, None, None], a * scale, xp.zeros_like(a)) for a in (images, som.weights))
    return next(parts), Som(next(parts), som.lattice)


def as_batch(images: Array) -> Array:
    """(B, C, H, W) from (B, C, H, W) or (B, H, W); ShapeError for other or non-square shapes."""
    shape = tuple(images.shape)
    if len(shape) not in (3, 4) or shape[-1] != shape[-2]:
        raise ShapeError(f"images have shape {shape}; they must be (batch, [channel,] side, side)")
    return images if len(shape) == 4 else images[:, None, :, :]


def geometry_of(
    images: Array,
    som: Som,
    rotations: int,
    flip: bool,
    region: str,
    region_side: int | None,
    inner_side: int = 0,
) -> Geometry:
    """Geometry of a search of ``images`` (B, C, H, H) on ``som``; ShapeError where channels differ."""
    if images.shape[1] != som.channels:
        raise ShapeError(f"images have {images.shape[1]} channels, the map has {som.channels}")
    return Geometry.derive(images.shape[3], rotations, flip, region, som.neuron_side, region_side, inner_side)


class Search:
    """The exact search against one map: tables and neuron spectra are made once, blocks come and go.

    weights (N, C, D, D) float32. Calling it on images (B, C, H, H), B <= 32, returns their Match.
    """

    def __init__(self, weights: Array, geometry: Geometry, *, xp: Any = np) -> None:
        side = geometry.image_side
        check_shapes((0, weights.shape[1], side, side), weights.shape, geometry)
        self.xp, self.geometry = xp, geometry
        self.table = dihedral.orbits(geometry)
        self.weights = xp.astype(weights, xp.float32)
        # A copy: it is a row of an array of all neurons.
        self.common = xp.asarray(dihedral.common_template(self.weights, self.table, xp=xp), copy=True)
        self.compiled = isinstance(weights, np.ndarray)
        if self.compiled:
            self.spectra, self.norms = _neurons(self.weights, range(len(weights)), self.table, self.common)
            return
        self.spectra = dihedral.neuron_spectra(self.weights, self.table, self.common, xp=xp)
        region = np.flatnonzero(geometry.region_mask)
        inside = xp.take(xp.reshape(self.weights, (*self.weights.shape[:2], -1)), xp.asarray(region), axis=2)
        inside = inside - xp.take(self.common, xp.asarray(self.table.owners()[region]), axis=1)
        self.norms = xp.sum(xp.astype(inside, xp.float64) ** 2, axis=(1, 2))

    def __call__(self, images: Array, *, pad: bool = True) -> Match:
        """Match of B <= 32 images. Without ``pad`` the few images of a check are searched as they are: rounding then
        depends on how many they are."""
        xp, count = self.xp, images.shape[0]
        check_shapes(images.shape, self.weights.shape, self.geometry)
        if count > BLOCK_IMAGES:
            raise ShapeError(f"a block holds {count} images; search at most {BLOCK_IMAGES} at a time")
        images, finite = finite_images(xp.astype(images, xp.float32), xp=xp)
        if pad and count < BLOCK_IMAGES:
            images = xp.concat([images, xp.zeros((BLOCK_IMAGES - count, *images.shape[1:]), dtype=xp.float32)])
        find = _compiled_minimum if self.compiled else _portable_minimum
        product, transform, norms = find(images, self)
        scale = norms + self.norms[None, :]
        squared = scale + xp.astype(product, xp.float64)
        squared, transform = _decide(self, np.array(images), squared, transform, scale, count)
        return as_match(squared[:count], transform[:count], finite, xp=xp)


def _decide(search: Search, images: Array, squared: Array, transform: Array, scale: Array, count: int) -> tuple:
    """Replace cancelled distances, and those that compete for the BMU, by direct sums of squares."""
    values, scales = np.array(squared), np.array(scale)
    best = np.min(values, axis=1, keepdims=True)
    perfect = values < NEAR_PERFECT * scales
    direct = (values < CANCELLATION * scales) | (values <= best + NEAR_TIE * scales)
    direct[count:] = perfect[count:] = False
    chosen, weights = np.array(transform), np.asarray(search.weights)
    for row in np.flatnonzero(perfect.any(axis=1)):
        near = np.flatnonzero(perfect[row])
        chosen[row, near] = double_transforms(images[row], weights, near, search.table)
    rows, neurons = np.nonzero(direct)
    values[rows, neurons] = direct_distances(images, weights, search.geometry, rows, neurons, chosen[rows, neurons])
    return values, chosen


def double_transforms(
    image: np.ndarray, weights: np.ndarray, neurons: np.ndarray, table: dihedral.Orbits
) -> np.ndarray:
    """Best transform (n,) of ``image`` (C, H, H) for ``neurons`` (n,) of ``weights`` (N, C, D, D), in float64.

    The samples are those of the direct sums; the lowest of equally good transforms is taken.
    """
    from skysom.engine import kernels

    geometry, channels = table.geometry, len(image)
    rows, bases = channels * len(table), geometry.base_rotations
    scalars, matrices = np.empty((4, rows, bases)), np.empty((rows, 2, 2, bases))
    norms = np.zeros((9, 1, bases))
    kernels.sample_one(
        image.reshape(channels, -1), *table.taps, table.weight, table.inside, table.complete, dihedral.PRODUCT,
        geometry.image_side, scalars, matrices, norms,
    )  # fmt: skip
    spectra, elements = dihedral.Spectra(scalars, matrices.reshape(2 * rows, -1)), list(geometry.elements)
    turned = (norms[:8] + norms[8])[elements]
    found = []
    for first in range(0, len(neurons), DOUBLE_NEURONS):
        own, own_norms = _neurons(weights, neurons[first : first + DOUBLE_NEURONS], table)
        scale = turned + own_norms[:, None]
        values = scale + dihedral.inverse(*dihedral.products(own, spectra))[elements]
        # With four quarter turns in use, (element, k) in order is t in order.
        values, scale = (part.transpose(1, 0, 2).reshape(len(own_norms), -1) for part in (values, scale))
        found.append((values <= values.min(axis=1, keepdims=True) + DOUBLE_TIE * scale).argmax(axis=1))
    return np.concatenate(found)


def _neurons(
    weights: np.ndarray, neurons: Sequence[int] | np.ndarray, table: dihedral.Orbits, common: np.ndarray | None = None
) -> tuple[dihedral.Spectra, np.ndarray]:
    """Spectra of ``neurons`` (n,) of ``weights`` (N, C, D, D), and their |w|^2 over the region (n,) float64: in float32
    minus the template ``common`` (C, O), or in float64 without one."""
    from skysom.engine import kernels

    count, channels = len(neurons), weights.shape[1]
    flat, rows = weights.reshape(len(weights), channels, -1), channels * len(table)
    scale = table.inside * table.weight[:, None] * np.float32(-0.25)
    kind, template = (np.float64, 0) if common is None else (np.float32, common[:, table.owners()])
    scalars, matrices = np.empty((4, count, rows), kind), np.empty((count, 2, rows, 2), kind)
    places, norms = np.flatnonzero(table.geometry.region_mask).astype(np.int32), np.empty(count)
    for i, n in enumerate(neurons):
        own = flat[n] - template
        kernels.neuron_spectrum(own, table.pixels, scale, scalars, matrices, i)
        norms[i] = kernels.square_norm(own, places)
    return dihedral.Spectra(scalars, matrices.reshape(2 * count, -1)), norms


def direct_distances(
    images: np.ndarray,
    weights: np.ndarray,
    geometry: Geometry,
    rows: np.ndarray,
    neurons: np.ndarray,
    t: np.ndarray,
) -> np.ndarray:
    """Squared distances (n,) float64 of the triples (image row, neuron, transform) by direct sums."""
    from skysom.engine import kernels

    side, channels = geometry.neuron_side, images.shape[1]
    flat_images = images.reshape(len(images), channels, -1)
    flat_weights = weights.reshape(len(weights), channels, -1)
    sources = dihedral.region_sources(geometry)
    out = np.empty(len(rows))
    frame = np.empty((channels, side * side), np.float32)
    k, element = base_and_element(t, geometry)
    previous = None
    for i in np.lexsort((k, rows)):
        if previous != (rows[i], k[i]):
            previous = (rows[i], k[i])
            taps = frame_taps(geometry, int(k[i]))
            kernels.rotate_frame(flat_images[rows[i]], *taps, geometry.image_side, frame)
        out[i] = kernels.direct_distance(frame, sources[element[i]], flat_weights[neurons[i]], sources[0])
    return out


def base_and_element(t: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Base rotation k and grid symmetry h = 4 f + q of transforms ``t``."""
    flip, turn = np.divmod(t, geometry.rotations)
    quarter, k = np.divmod(turn, geometry.base_rotations)
    return k, 4 * flip + quarter


@lru_cache(maxsize=FRAMES_KEPT)
def frame_taps(geometry: Geometry, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interpolation of the whole neuron frame, arrays (D*D,), for base rotation ``k``."""
    return tuple(geometry.taps(k, np.arange(geometry.neuron_side**2)))  # type: ignore[return-value]


def rotation_blocks(geometry: Geometry, batch: int, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of base rotations that fill a panel with 8 float32 a row (orbit and channel, or neuron) and image."""
    step = max(1, PANEL_BYTES // (32 * rows * batch))
    for first in range(0, geometry.base_rotations, step):
        yield first, min(first + step, geometry.base_rotations)


def sample(
    images: np.ndarray, table: dihedral.Orbits, first: int, stop: int, common: np.ndarray | None = None
) -> tuple[dihedral.Spectra, np.ndarray]:
    """`dihedral.image_spectra` by the compiled kernel; ``images`` (C, H*W, B), image innermost."""
    from skysom.engine import kernels

    if common is None:
        common = np.zeros((len(images), len(table)), np.float32)

    batch, rows, columns = images.shape[2], images.shape[0] * len(table), (stop - first) * images.shape[2]
    scalars = np.empty((4, rows, columns), np.float32)
    matrices = np.empty((rows, 2, 2, columns), np.float32)
    norms = np.zeros((9, stop - first, batch))
    index, low, right = (array[first:stop] for array in table.taps)
    kernels.sample_block(
        images, index, low, right, table.weight, table.inside, table.complete, dihedral.PRODUCT,
        table.geometry.image_side, common, scalars, matrices, norms,
    )  # fmt: skip
    return dihedral.Spectra(scalars, matrices.reshape(2 * rows, 2 * columns)), norms[:8] + norms[8]


def _compiled_minimum(images: np.ndarray, search: Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best -2 <r, w> (B, N) float32, its transform and its |r|^2 (B, N) float64, on NumPy."""
    from skysom.engine import kernels

    geometry, table = search.geometry, search.table
    batch, channels = images.shape[:2]
    inner = np.ascontiguousarray(images.reshape(batch, channels, -1).transpose(1, 2, 0))
    neurons = len(search.weights)
    best = np.full((neurons, batch), np.inf, np.float32)
    best_t = np.zeros((neurons, batch), np.int32)
    best_product = np.full((neurons, batch), np.nan, np.float32)
    norms = np.empty((8, geometry.base_rotations, batch))
    for first, stop in rotation_blocks(geometry, batch, max(channels * len(table), neurons)):
        spectra, norms[:, first:stop] = sample(inner, table, first, stop, search.common)
        scalars, matrices = dihedral.products(search.spectra, spectra)
        kernels.minimum_block(
            scalars, matrices.reshape(neurons, 2, 2, -1), norms[:, first:stop].astype(np.float32), first,
            geometry.base_rotations, geometry.rotations, np.array(geometry.elements), best, best_t, best_product,
        )  # fmt: skip
    k, element = base_and_element(best_t, geometry)
    return best_product.T, best_t.T.astype(np.int64), norms[element, k, np.arange(batch)].T


def _portable_minimum(images: Array, search: Search) -> tuple[Array, Array, Array]:
    xp, geometry, table = search.xp, search.geometry, search.table
    best = None
    for k in range(geometry.base_rotations):
        spectra, norms = dihedral.image_spectra(images, table, k, k + 1, search.common, xp=xp)
        values = dihedral.inverse(*dihedral.products(search.spectra, spectra, xp=xp), xp=xp)
        for h in geometry.elements:
            product = xp.permute_dims(values[h, ...], (1, 0))
            norm = xp.broadcast_to(norms[h, 0, :][:, None], product.shape)
            d = xp.astype(norm, xp.float32) + product
            t = xp.full(d.shape, geometry.transform_index(h, k), dtype=xp.int64)
            if best is None:
                best = (d, product, t, norm)
                continue
            better = (d < best[0]) | ((d == best[0]) & (t < best[2]))
            best = tuple(xp.where(better, new, old) for new, old in zip((d, product, t, norm), best, strict=True))
    assert best is not None
    return best[1], best[2], best[3]


def _reference(images: Array, som: Som, geometry: Geometry, *, xp: Any) -> Match:
    if images.shape[0] == 0:
        return empty_match(som.weights.shape[0], xp=xp)
    images, finite = finite_images(xp.astype(images, xp.float32), xp=xp)
    squared, chosen = [], []
    for i in range(images.shape[0]):
        all_of_them = transforms.squared_distances(images[i, ...], som.weights, geometry, xp=xp)
        squared.append(xp.min(all_of_them, axis=1))
        chosen.append(xp.argmin(all_of_them, axis=1))
    return as_match(xp.stack(squared), xp.stack(chosen), finite, xp=xp)
