"""What a search returns, and the checks that every search begins with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysom.engine.errors import ShapeError
from skysom.engine.geometry import Geometry

Array = Any


@dataclass(frozen=True)
class Match:
    """Distances of B images to N neurons, each at its best transform.

    distance (B, N) float32; transform (B, N) int64, t = flip * R + k; bmu (B,) int64, the neuron of
    the smallest distance (the lowest index of equal ones); bmu_distance (B,) float32; exact (B, N) bool,
    whether the distance is that of the exact search, to rounding: of the certified search, unless it lies beyond the
    margin (`Calibration` states how often for the best-matching unit alone). False where the image is not finite.
    """

    distance: Array
    transform: Array
    bmu: Array
    bmu_distance: Array
    exact: Array


def as_match(squared: Array, transform: Array, finite: Array, exact: Array | None = None, *, xp: Any) -> Match:
    """Match from squared distances (B, N) float64 and transforms (B, N); rows not ``finite`` (B,) are NaN.

    exact (B, N) bool; None where all distances are.
    """
    distance = xp.astype(xp.sqrt(xp.asarray(squared)), xp.float32)
    distance = xp.where(finite[:, None], distance, xp.full_like(distance, xp.nan))
    transform = xp.astype(xp.asarray(transform), xp.int64)
    transform = xp.where(finite[:, None], transform, xp.zeros_like(transform))
    exact = xp.ones(distance.shape, dtype=xp.bool) if exact is None else xp.asarray(exact)
    exact = exact & finite[:, None]
    return Match(distance, transform, xp.argmin(distance, axis=1), xp.min(distance, axis=1), exact)


def joined(blocks: Sequence[Match], *, xp: Any) -> Match:
    """The matches of several blocks of images, at least one, as one."""
    return Match(*(xp.concat([getattr(block, name) for block in blocks]) for name in Match.__dataclass_fields__))


def empty_match(neurons: int, *, xp: Any) -> Match:
    """The match of no images with ``neurons`` neurons."""
    whole, single = (0, neurons), (0,)
    return Match(
        xp.zeros(whole, dtype=xp.float32),
        xp.zeros(whole, dtype=xp.int64),
        xp.zeros(single, dtype=xp.int64),
        xp.zeros(single, dtype=xp.float32),
        xp.zeros(whole, dtype=xp.bool),
    )


def check_shapes(images: tuple, weights: tuple, geometry: Geometry) -> None:
    """ShapeError unless shapes (B, C, H, H) and (N, C, D, D) are those of ``geometry``.

    The compiled kernels index without bounds checks.
    """
    channels, side, frame = weights[1], geometry.image_side, geometry.neuron_side
    if tuple(images[1:]) != (channels, side, side) or tuple(weights[2:]) != (frame, frame):
        raise ShapeError(
            f"images have shape {tuple(images)} and weights {tuple(weights)}; this search needs "
            f"images (B, {channels}, {side}, {side}) and weights (N, {channels}, {frame}, {frame})"
        )


def finite_images(images: Array, *, xp: Any) -> tuple[Array, Array]:
    """Images (B, C, H, H) with those that hold NaN or infinities set to zero, and which are finite (B,)."""
    finite = xp.all(xp.isfinite(images), axis=(1, 2, 3))
    if isinstance(images, np.ndarray):
        images = np.ascontiguousarray(images)  # what is made of it keeps the order of its memory
        if finite.all():
            return images, finite  # the usual case: no copy where none is needed
    return xp.where(finite[:, None, None, None], images, xp.zeros_like(images)), finite
