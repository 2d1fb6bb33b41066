"""Masks of neurons as one word a pixel: labels looked up at positions, and how far from a source they reach."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from skysom.engine.collation.carried import MOST_LABELS
from skysom.engine.collation.offsets import mask_pixel, scales
from skysom.engine.errors import CollationError


def label_planes(planes: np.ndarray, labels: int) -> np.ndarray:
    """Annotation planes (N, C, D, D, W) uint8 as one word a pixel, (N, C, D, D) uint64: bit p for label p.

    Raises
    ------
    CollationError : more than 64 labels, or planes whose words do not hold them.
    """
    planes = np.asarray(planes)
    if labels > MOST_LABELS:
        raise CollationError(
            f"the annotations have {labels} labels; at most {MOST_LABELS} can be projected: take unused ones out"
        )
    if planes.ndim != 5 or planes.dtype != np.uint8 or planes.shape[-1] * 8 < labels:
        raise CollationError(
            f"masks have shape {planes.shape} and type {planes.dtype}; {labels} labels need (N, C, D, D, W) uint8 with "
            f"W = {-(-labels // 8)} words or more"
        )
    found = np.zeros(planes.shape[:-1], np.uint64)
    for word in range(-(-labels // 8)):
        found |= planes[..., word].astype(np.uint64) << np.uint64(8 * word)
    rest = np.uint64(2**labels - 1)
    return found & rest


def mask_bits(x: npt.ArrayLike, y: npt.ArrayLike, neuron: npt.ArrayLike, planes: np.ndarray) -> np.ndarray:
    """Label bits (P,) uint64 at neuron offsets x, y (P,) of planes (N, D, D) uint64; 0 outside, and for neuron -1."""
    check_planes(planes, np.asarray(neuron))
    row, column, inside = mask_pixel(x, y, planes.shape[1])
    neurons = np.asarray(neuron)
    found = planes[np.maximum(neurons, 0), row, column]
    return np.where(inside & (neurons >= 0), found, np.uint64(0))


def mask_reach_arcsec(planes: np.ndarray, pixel_scale_arcsec: float | Sequence[float]) -> np.ndarray:
    """How far from its source a row can be and lie under a label of a neuron: (N,) float64, 0 where there is none.

    The furthest corner of a labelled pixel of planes (N, D, D) or (N, C, D, D) uint64. Pixel p spans [p, p + 1) about
    the centre D / 2, pixel 0 begins at -1 (`skysom.engine.collation.projection`). A hair is added, for cosines and
    sines in float32; offsets in the sky-offset frame are no shorter than separations.
    """
    side = planes.shape[-1]
    labelled = (planes != 0).reshape(len(planes), -1, side, side).any(axis=1)
    begin = np.arange(side) - side / 2
    begin[:1] -= 1
    furthest = np.maximum(np.abs(begin), np.abs(np.arange(1, side + 1) - side / 2))
    corner = np.hypot(furthest[:, None], furthest)
    reach = np.where(labelled, corner, 0).max(axis=(1, 2), initial=0)
    return np.asarray(reach * max(scales(pixel_scale_arcsec)) * (1 + 1e-6))


def check_planes(planes: np.ndarray, neuron: np.ndarray) -> None:
    """CollationError unless planes are one channel, (N, D, D) uint64, of a map that has the neurons (n,)."""
    if planes.ndim != 3 or planes.shape[1] != planes.shape[2] or planes.dtype != np.uint64:
        raise CollationError(
            f"masks have shape {planes.shape} and type {planes.dtype}; give (N, D, D) uint64, a channel of label_planes"
        )
    if neuron.size and neuron.max() >= len(planes):
        raise CollationError(
            f"a row has neuron {neuron.max()}, the masks have 0 to {len(planes) - 1}; they are of another map"
        )
