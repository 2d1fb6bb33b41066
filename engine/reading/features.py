"""Features of sources for classifiers: distances to all neurons, and amplitudes that no rotation or flip changes.

Both are compressed: the logarithm of a distance, the square root of an amplitude. A bright core would else outweigh
the lobes, and one far neuron all the near ones.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.geometry import Geometry
from skysom.engine.reading.units import excluded_mask

Transform = Literal["log", "plain", "relative"]

LEAST_SHARE = 1e-3
"""Distances below this share of the median of an image's distances count as that: an image that became a neuron has
distance 0."""
FEATURE_IMAGES = 64
"""Images whose amplitudes are made at a time."""


@dataclass(frozen=True)
class FeatureSettings:
    """Which features sources get.

    Parameters
    ----------
    transform : of the distances: ``log`` (natural), ``plain``, ``relative`` (to the best neuron); None: no distances.
    orders : angular orders 0 .. orders - 1 of the amplitudes, a multiple of 4; 0: no amplitudes.
    ring_pixels : the amplitudes are averaged over rings of this width.
    excluded : neurons whose distances are left out.

    Raises
    ------
    ReadingError : no features at all, or values outside these.
    """

    transform: Transform | None = "log"
    orders: int = 8
    ring_pixels: float = 2.0
    excluded: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.transform is not None and self.transform not in get_args(Transform):
            raise ReadingError(
                f"the transform of distances is {self.transform!r}; use one of {', '.join(get_args(Transform))}"
            )
        if self.orders < 0 or self.orders % 4:
            raise ReadingError(f"amplitudes of {self.orders} orders; give 0 (none) or a multiple of 4")
        if not (np.isfinite(self.ring_pixels) and self.ring_pixels > 0):
            raise ReadingError(f"rings are {self.ring_pixels} pixels wide; give a finite number above 0")
        if self.transform is None and not self.orders:
            raise ReadingError("neither distances nor amplitudes are wanted; give a transform, or orders above 0")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FeatureSettings":
        """What `dataclasses.asdict` made, also after JSON; ReadingError for other keys or values."""
        try:
            excluded = tuple(int(neuron) for neuron in values["excluded"])
            return cls(values["transform"], int(values["orders"]), float(values["ring_pixels"]), excluded)
        except (KeyError, TypeError, ValueError) as error:
            raise ReadingError(f"settings of features are damaged ({error}); classify again") from None


def distance_features(
    distance: np.ndarray, transform: Transform = "log", *, excluded: tuple[int, ...] | np.ndarray | None = None
) -> np.ndarray:
    """Features (B, n) float32 of true distances (B, N) to all neurons, without the neurons ``excluded``.

    ``log``: the natural logarithm; ``relative``: divided by the least distance. Rows with NaN have NaN.

    Raises
    ------
    ReadingError : an array of another shape, an unknown transform, or a mask as `excluded_mask` refuses.
    """
    values = np.asarray(distance, np.float32)
    if values.ndim != 2 or not values.shape[1]:
        raise ReadingError(f"distances have shape {values.shape}; give (sources, neurons)")
    mask = excluded_mask(values.shape[1], excluded)
    if mask is not None:
        values = values[:, ~mask]
    if transform == "plain":
        return values.copy()
    if transform not in get_args(Transform):
        raise ReadingError(f"the transform of distances is {transform!r}; use one of {', '.join(get_args(Transform))}")
    tiny = np.finfo(np.float32).tiny
    floored = np.maximum(values, np.maximum(LEAST_SHARE * np.median(values, axis=1, keepdims=True), tiny))
    return np.log(floored) if transform == "log" else floored / floored.min(axis=1, keepdims=True)


def ring_bins(geometry: Geometry, orders: int, ring_pixels: float) -> tuple[np.ndarray, np.ndarray]:
    """Which bin each ring of `skysom.engine.rings` falls into (J,) int, and the mean radius of each bin in pixels."""
    from skysom.engine.rings import rings

    radii = rings(geometry, orders).radii
    bins = np.unique((radii / ring_pixels).astype(np.int64), return_inverse=True)[1]
    return bins, np.bincount(bins, radii) / np.bincount(bins)


def amplitude_features(
    images: np.ndarray, geometry: Geometry, *, orders: int = 8, ring_pixels: float = 2.0
) -> np.ndarray:
    """Features (B, C * G * M) float32 of images (B, C, H, H): root of the mean amplitude of G rings and M orders.

    Amplitudes are those of `skysom.engine.polar.amplitudes`, averaged over the rings of a bin of ``ring_pixels``.
    Channel after channel, ring after ring, order after order. Images with NaN have NaN.

    Raises
    ------
    ShapeError : images of another side than the geometry's. GeometryError : orders that are no multiple of 4.
    """
    from skysom.engine.polar import amplitudes

    bins, radii = ring_bins(geometry, orders, ring_pixels)
    share = np.zeros((len(radii), len(bins)))
    share[bins, np.arange(len(bins))] = 1 / np.bincount(bins)[bins]
    found = []
    for first in range(0, len(images), FEATURE_IMAGES):
        sizes = amplitudes(images[first : first + FEATURE_IMAGES], geometry, orders)
        means = np.einsum("gj,bcjm->bcgm", share, sizes)
        found.append(np.sqrt(means).astype(np.float32).reshape(len(sizes), -1))
    width = images.shape[1] * len(radii) * orders
    return np.concatenate([np.empty((0, width), np.float32), *found])


def feature_matrix(
    settings: FeatureSettings,
    geometry: Geometry,
    distance: np.ndarray | None = None,
    images: np.ndarray | None = None,
) -> np.ndarray:
    """The features (B, n) float32 that ``settings`` wants, of the distances (B, N) and the images (B, C, H, H).

    Raises
    ------
    ReadingError : distances or images that are wanted and not given, or not of the same sources; and as the functions
    for each say.
    """
    parts = []
    if settings.transform is not None:
        if distance is None:
            raise ReadingError("distances are wanted as features and not given; give them, or set transform to None")
        parts.append(distance_features(distance, settings.transform, excluded=settings.excluded))
    if settings.orders:
        if images is None:
            raise ReadingError("amplitudes are wanted as features and no images given; give them, or set orders to 0")
        parts.append(amplitude_features(images, geometry, orders=settings.orders, ring_pixels=settings.ring_pixels))
    if len({len(part) for part in parts}) > 1:
        raise ReadingError(f"{len(parts[0])} rows of distances and {len(parts[1])} images; give those of the same rows")
    return np.hstack(parts)


def feature_names(
    settings: FeatureSettings, geometry: Geometry, *, neurons: int, channels: int = 1
) -> tuple[list[str], np.ndarray]:
    """Names of the columns of `feature_matrix`, and the block (n,) int each belongs to.

    The distances are one block and the amplitudes of each channel another: columns of a block have one scale.
    """
    names: list[str] = []
    blocks: list[int] = []
    if settings.transform is not None:
        mask = excluded_mask(neurons, settings.excluded)
        kept = range(neurons) if mask is None else np.flatnonzero(~mask).tolist()
        prefix = "" if settings.transform == "plain" else f"{settings.transform}_"
        names += [f"{prefix}distance_{neuron}" for neuron in kept]
        blocks += [0] * len(names)
    if settings.orders:
        radii = ring_bins(geometry, settings.orders, settings.ring_pixels)[1]
        for channel in range(channels):
            new = [f"amplitude_c{channel}_r{r:.1f}px_m{m}" for r in radii for m in range(settings.orders)]
            names += new
            blocks += [channel + 1] * len(new)
    return names, np.array(blocks, np.int64)
