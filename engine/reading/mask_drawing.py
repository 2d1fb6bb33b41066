"""Masks drawn by rule instead of by hand: flood fills above a threshold, and polygons.

Pixels are (row, column); the centre of a pixel has whole coordinates.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from skysom.engine.errors import ReadingError

Seed = Literal["brightest", "central"]


def threshold(image: np.ndarray, sigma: float = 2.0) -> float:
    """``sigma`` standard deviations of the finite pixels of one channel (D, D), no mean subtracted, as the peer does.

    Raises
    ------
    ReadingError : ``sigma`` is not positive, or the channel is constant, so that nothing stands out of it.
    """
    if not sigma > 0:
        raise ReadingError(f"sigma is {sigma}; it must be positive, 2 is usual")
    finite = np.asarray(image)[np.isfinite(image)]
    deviation = float(finite.std(dtype=np.float64)) if finite.size else 0.0
    if deviation == 0:
        raise ReadingError("the neuron is constant in this channel: nothing stands out that a mask could follow")
    return sigma * deviation


def flood_mask(image: np.ndarray, seed_px: tuple[float, float], sigma: float = 2.0) -> np.ndarray:
    """The region of bright pixels around a point, (D, D) bool: the peer's click (specs/pyink.md, section 5).

    Pixels above `threshold` that are connected to the one at ``seed_px`` (row, column), diagonals included.

    Raises
    ------
    ReadingError : the point lies outside, or its pixel is not above the threshold: a flood from there would fill the
        background, as it does in the peer.
    """
    from skimage.segmentation import flood

    least = threshold(image, sigma)
    seed = tuple(int(np.floor(axis + 0.5)) for axis in seed_px)
    if not all(0 <= axis < side for axis, side in zip(seed, image.shape, strict=True)):
        raise ReadingError(f"the point {tuple(seed_px)} lies outside the neuron of {image.shape} pixels")
    if not image[seed] > least:
        raise ReadingError(
            f"the pixel {seed} has {image[seed]:.4g}, not above the threshold {least:.4g} ({sigma:g} standard "
            "deviations), so the background would be filled; choose a brighter pixel or a smaller sigma"
        )
    return flood(image > least, seed)


def scripted_masks(neurons: np.ndarray, sigma: float = 2.0, seed: Seed = "brightest") -> np.ndarray:
    """A flood mask for every neuron of one channel: (N, D, D) bool of neurons (N, D, D).

    seed : "brightest", the flood begins at the brightest pixel (the first of equal ones); "central", at the pixel
        above the threshold that is nearest to the centre (D - 1) / 2 (the brightest of equal ones). A neuron of which
        no pixel is above the threshold, or that is constant, gets an empty mask.

    Raises
    ------
    ReadingError : another ``seed``, or a ``sigma`` that is not positive.
    """
    if seed not in ("brightest", "central"):
        raise ReadingError(f"seed is {seed!r}; use 'brightest' or 'central'")
    masks = np.zeros(neurons.shape, bool)
    for image, mask in zip(neurons, masks, strict=True):
        finite = image[np.isfinite(image)]
        if not finite.size or finite.min() == finite.max():
            continue
        bright = image > threshold(image, sigma)
        if bright.any():
            mask[:] = flood_mask(image, _seed(image, bright, seed), sigma)
    return masks


def lasso_mask(vertices_px: Sequence[Sequence[float]] | np.ndarray, side: int, margin_px: float = 0.5) -> np.ndarray:
    """Pixels (D, D) bool whose centre is inside a polygon, or outside it by less than ``margin_px`` pixels.

    vertices_px : (V, 2) rows and columns, V at least 3, closed or not, drawn either way round. The peer's lasso has a
        margin of half a pixel, but takes it off where the polygon is drawn the other way round; here it never is.

    Raises
    ------
    ReadingError : fewer than three vertices, or some that are not finite.
    """
    from matplotlib.path import Path

    vertices = np.asarray(vertices_px, np.float64)
    if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3 or not np.isfinite(vertices).all():
        raise ReadingError(
            f"a lasso needs at least three finite (row, column) vertices; got an array of {vertices.shape}"
        )
    rows, columns = vertices.T
    # matplotlib widens a counter-clockwise path (x to the right, y upwards) by half its radius, and narrows others.
    clockwise = np.sum(columns * np.roll(rows, -1) - np.roll(columns, -1) * rows) < 0
    corners = np.stack([columns, rows], axis=1)
    pixels = np.indices((side, side))[::-1].reshape(2, -1).T
    path = Path(corners[::-1] if clockwise else corners)
    return path.contains_points(pixels, radius=2 * margin_px).reshape(side, side)


def _seed(image: np.ndarray, bright: np.ndarray, seed: Seed) -> tuple[float, float]:
    if seed == "brightest":
        row, column = np.unravel_index(np.nanargmax(image), image.shape)
        return float(row), float(column)
    rows, columns = np.nonzero(bright)
    centre = (np.array(image.shape) - 1) / 2
    order = np.lexsort((-image[rows, columns], (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2))
    return float(rows[order[0]]), float(columns[order[0]])
