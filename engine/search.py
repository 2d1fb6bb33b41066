"""The best-matching unit of every image: `best_match`, and `searcher` for the methods behind it.

``reference``, which makes every transform and sums squares (tests, tiny inputs), is here; `exact`, `polar` and
`certified` have modules of their own.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skysom.engine import transforms
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, as_match, empty_match, finite_images, joined
from skysom.engine.som import Som

if TYPE_CHECKING:
    from skysom.engine.certified import Calibration

Array = Any
Method = Literal["certified", "exact", "polar", "reference"]


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
    (but for the BMU's) may differ by rounding, and approximate ones by more.
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
        from skysom.engine.exact import Search

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
