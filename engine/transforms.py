"""The plain reference: every transform of an image made, every distance a direct sum of squares.

Readable and slow; the fast paths must return what this returns. Works on any array namespace.
"""

from typing import Any

import numpy as np

from skysom.engine.geometry import Geometry

Array = Any


def transform(image: Array, t: int, geometry: Geometry, *, xp: Any = np) -> Array:
    """Transform ``t`` of ``image`` (C, H, W) in the neuron's frame, (C, D, D) float32."""
    flip, k = divmod(t, geometry.rotations)
    quarter, base = divmod(k, geometry.base_rotations)
    turned = _quarter_turns(rotate(image, base, geometry, xp=xp), quarter, xp=xp)
    return xp.flip(turned, axis=1) if flip else turned


def rotate(image: Array, k: int, geometry: Geometry, *, xp: Any = np) -> Array:
    """Base rotation ``k`` < R/4 of ``image`` (C, H, W), bilinear, straight into the neuron frame (C, D, D)."""
    side = geometry.neuron_side
    taps = geometry.taps(k, np.arange(side * side))
    inside = xp.asarray(taps.index >= 0)
    index = xp.asarray(np.maximum(taps.index, 0).astype(np.int64))
    low, right = xp.asarray(taps.row_fraction), xp.asarray(taps.column_fraction)
    flat = xp.reshape(xp.astype(image, xp.float32), (image.shape[0], -1))

    def tap(offset: int) -> Array:
        return xp.take(flat, index + offset, axis=1)

    width = geometry.image_side
    value = (
        (1 - low) * (1 - right) * tap(0)
        + (1 - low) * right * tap(1)
        + low * (1 - right) * tap(width)
        + low * right * tap(width + 1)
    )
    return xp.reshape(xp.where(inside, value, xp.zeros_like(value)), (image.shape[0], side, side))


def transform_stack(image: Array, geometry: Geometry, *, xp: Any = np) -> Array:
    """All transforms of ``image`` (C, H, W): (T, C, D, D) float32, t = flip * R + k."""
    return xp.stack([transform(image, t, geometry, xp=xp) for t in range(geometry.transforms)])


def squared_distances(image: Array, weights: Array, geometry: Geometry, *, xp: Any = np) -> Array:
    """Squared distances of all transforms of ``image`` (C, H, W) to ``weights`` (N, C, D, D): (N, T) float64."""
    region = xp.asarray(np.flatnonzero(geometry.region_mask))

    def inside(frames: Array) -> Array:
        flat = xp.reshape(frames, (*frames.shape[:2], -1))
        return xp.astype(xp.take(flat, region, axis=2), xp.float64)

    stack, neurons = inside(transform_stack(image, geometry, xp=xp)), inside(weights)
    rows = [xp.sum((stack - neurons[n, ...]) ** 2, axis=(1, 2)) for n in range(weights.shape[0])]
    return xp.stack(rows)


def _quarter_turns(images: Array, turns: int, *, xp: Any) -> Array:
    """(C, D, D) turned clockwise (row 0 on top) by ``turns`` quarter circles."""
    for _ in range(turns):
        images = xp.flip(xp.permute_dims(images, (0, 2, 1)), axis=2)
    return images
