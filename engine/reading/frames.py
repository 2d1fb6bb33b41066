"""Between the frame of an image and the frame of a neuron: images turned onto neurons, neurons and masks turned back.

Forward (image -> neuron) the image is turned by ``angle_rad`` clockwise with row 0 on top, then its rows are reversed
where ``flip`` is 1; back, the rows are reversed first and the turn undone. Both happen about the exact centres
(side - 1) / 2, and what lies outside is 0. `to_neuron_frame` and `to_image_frame` follow the search to the pixel
instead: they take its transform t = flip R + k, and copy images at k = 0 with the search's margin, which lies half a
pixel from the exact centres where the parities of image and neuron side differ.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import ReadingError
from skysom.engine.geometry import Geometry
from skysom.engine.transforms import rotate

ORDERS = (0, 1, 3)
"""Nearest pixel (masks), bilinear (the search), cubic spline."""
EDGE_PIXELS = 1e-4
"""A source so little outside is on the edge: an angle in float32 puts edges of quarter turns that far out."""


class PixelMap(NamedTuple):
    """Where pixels of one frame lie in another: (row, column) there = matrix @ (row, column) here + offset.

    matrix : (2, 2) float64, orthogonal. offset : (2,) float64, pixels. Indices count from 0 at pixel centres.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def inverse(self) -> "PixelMap":
        """The map the other way."""
        return PixelMap(self.matrix.T, -self.matrix.T @ self.offset)

    def __call__(self, positions: npt.ArrayLike) -> np.ndarray:
        """Positions (..., 2) float64 there, of (row, column) positions (..., 2) here."""
        return np.asarray(positions, np.float64) @ self.matrix.T + self.offset

    def affine(self) -> np.ndarray:
        """(2, 3) float64 in the order (x = column, y = row) of world coordinate systems: last column the offset."""
        return np.column_stack([self.matrix[::-1, ::-1], self.offset[::-1]])


def pixel_map(
    angle_rad: float, flip: int | bool, image_shape: tuple[int, int], neuron_shape: tuple[int, int]
) -> PixelMap:
    """From pixels of the neuron frame (h, w) to pixels of the image (H, W), about the exact centres.

    With y, x from the centre of the neuron frame (y reversed where ``flip``): row = y cos a - x sin a and
    column = y sin a + x cos a from the centre of the image, as the search samples.
    """
    matrix = _turn(math.cos(angle_rad), math.sin(angle_rad)) @ np.diag([-1.0 if flip else 1.0, 1.0])
    return _about(matrix, _centre(image_shape), _centre(neuron_shape))


def transform_pixel_map(transform: int, geometry: Geometry) -> PixelMap:
    """From pixels of the neuron frame (D, D) to pixels of the image (H, H), as transform t of the search samples."""
    flip, k = divmod(int(_checked_transforms(transform, 1, geometry)[0]), geometry.rotations)
    quarter, base = divmod(k, geometry.base_rotations)
    matrix = np.diag([-1.0 if flip else 1.0, 1.0])
    for _ in range(quarter):
        matrix = _turn(0.0, 1.0) @ matrix
    centre = _centre((geometry.neuron_side, geometry.neuron_side))
    if not base:
        return _about(matrix, centre - geometry.margin, centre)
    angle = float(geometry.angle(base))
    image_centre = _centre((geometry.image_side, geometry.image_side))
    return _about(_turn(math.cos(angle), math.sin(angle)) @ matrix, image_centre, centre)


def angle_and_flip(transform: npt.ArrayLike, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Angle in radians (B,) float64 and flip (B,) int64 of the search's transforms t = flip R + k (B,)."""
    t = np.atleast_1d(np.asarray(transform))
    flip, k = np.divmod(_checked_transforms(t, len(t), geometry), geometry.rotations)
    return np.array([float(geometry.angle(int(step))) for step in k]), flip


# --- as the search does it ------------------------------------------------------------------------


def to_neuron_frame(images: npt.ArrayLike, transform: npt.ArrayLike, geometry: Geometry) -> np.ndarray:
    """Images in the neuron's frame, pixel for pixel those that the search compares with the neuron.

    Over the region of ``geometry`` the Euclidean distance of a row to its best-matching unit is its BMU distance
    (channels weighted alike).

    Parameters
    ----------
    images : (B, C, H, H), or (B, H, H), finite.
    transform : (B,) int, t = flip R + rotation of each image, as a mapping stores them; one number for all.

    Returns
    -------
    (B, C, D, D) or (B, D, D) float32.

    Raises
    ------
    ReadingError : images of another side, or a transform that the geometry does not have.
    """
    data = _batch(images, (geometry.image_side, geometry.image_side))
    transforms = _checked_transforms(transform, len(data), geometry)
    k = transforms % geometry.rotations
    found = np.empty((*data.shape[:-2], geometry.neuron_side, geometry.neuron_side), np.float32)
    for base in np.unique(k % geometry.base_rotations):
        rows = np.flatnonzero(k % geometry.base_rotations == base)
        planes = data[rows].reshape(-1, *data.shape[-2:])
        found[rows] = rotate(planes, int(base), geometry).reshape(len(rows), *found.shape[1:])
    for row, t in enumerate(transforms):
        turned = np.rot90(found[row], -(int(k[row]) // geometry.base_rotations), axes=(-2, -1))
        found[row] = turned[..., ::-1, :] if t >= geometry.rotations else turned
    return found


def to_image_frame(
    planes: npt.ArrayLike, transform: npt.ArrayLike, geometry: Geometry, *, order: int = 1
) -> np.ndarray:
    """Neurons, or masks on them (``order`` 0), as the images see them: the search's transform undone.

    Parameters
    ----------
    planes : (B, C, D, D) or (B, D, D), for each image its neuron.
    transform : (B,) int, t = flip R + rotation that takes each image onto its neuron; one number for all.
    order : 0 nearest pixel (the dtype is kept), 1 bilinear, 3 cubic spline (float32).

    Returns
    -------
    (B, C, H, H) or (B, H, H); 0 where an image reaches beyond the neuron. At k = 0 (and quarter turns of it) an exact
    copy.

    Raises
    ------
    ReadingError : planes of another side, or a transform that the geometry does not have.
    """
    data = _batch(planes, (geometry.neuron_side, geometry.neuron_side))
    transforms = _checked_transforms(transform, len(data), geometry)
    shape = (geometry.image_side, geometry.image_side)
    return _each(data, shape, order, lambda row: transform_pixel_map(int(transforms[row]), geometry).inverse())


# --- at any angle ---------------------------------------------------------------------------------


def image_to_neuron(
    images: npt.ArrayLike,
    angle_rad: npt.ArrayLike,
    flip: npt.ArrayLike,
    *,
    order: int = 1,
    side: int | None = None,
    outside: float = 0.0,
) -> np.ndarray:
    """Images turned by an angle and flipped, into the neuron's frame.

    Parameters
    ----------
    images : (B, C, H, W), (B, H, W), or (C, H, W) or (H, W) where angle and flip are single numbers. NaN is taken as
        0 in the sums, and comes back where the nearest pixel is NaN.
    angle_rad : (B,) or a number; flip : (B,) or a number, 0 or 1.
    order : 0 nearest pixel (the dtype is kept), 1 bilinear, 3 cubic spline. Order 3 is what pyink does
        (scipy.ndimage.rotate by -angle without reshaping, then rows reversed).
    side : pixels of the result; by default the shape of the images.
    outside : value of pixels that the images do not reach; NaN for pictures of the sky.

    Returns
    -------
    Array of the images' leading shape, float32 (order 0: their dtype).

    Raises
    ------
    ReadingError : shapes, angles, flips or an order that do not fit.
    """
    return _turned(images, angle_rad, flip, order, side, outside, back=False)


def neuron_to_image(
    planes: npt.ArrayLike,
    angle_rad: npt.ArrayLike,
    flip: npt.ArrayLike,
    *,
    order: int = 1,
    side: int | None = None,
    outside: float = 0.0,
) -> np.ndarray:
    """Neurons (or masks on them, with ``order`` 0) turned into the frame of an image: `image_to_neuron` undone.

    Arguments, result and errors as there; ``angle_rad`` and ``flip`` are those that take the image onto the neuron.
    Rows are reversed first, then the plane is turned by +angle in the sense of scipy.ndimage.rotate.
    """
    return _turned(planes, angle_rad, flip, order, side, outside, back=True)


def trimmed(planes: npt.ArrayLike, side: int | None = None, *, order: int = 1) -> np.ndarray:
    """The central ``side`` x ``side`` pixels of planes (..., D, D), centred exactly.

    Where ``side`` and D have the same parity this is a crop, pixel for pixel. Where not, a crop would lie half a
    pixel off the centre in rows and columns; the planes are resampled by that half pixel instead (order 1: means of
    four neighbours; 3: cubic spline; 0: the crop half a pixel up and left, for masks).

    Parameters
    ----------
    side : pixels, at most D; by default floor(D / sqrt 2), the square that is inside at every angle.

    Returns
    -------
    (..., side, side): the dtype of the planes for crops and order 0, else float32.

    Raises
    ------
    ReadingError : a side above D or below 1, planes that are not square.
    """
    data = np.asarray(planes)
    if data.ndim < 2 or data.shape[-1] != data.shape[-2]:
        raise ReadingError(f"planes have shape {data.shape}; trimming needs (..., side, side)")
    full = data.shape[-1]
    wanted = int(full / math.sqrt(2)) if side is None else side
    if not 1 <= wanted <= full:
        raise ReadingError(f"planes of {full} pixels cannot be trimmed to {wanted}; give a side from 1 to {full}")
    first = (full - wanted) // 2
    if (full - wanted) % 2 == 0 or order == 0:
        return data[..., first : first + wanted, first : first + wanted].copy()
    shape = (wanted, wanted)
    centred = _about(np.eye(2), _centre((full, full)), _centre(shape))
    flat = data.reshape(-1, full, full)
    return _each(flat, shape, order, lambda _: centred).reshape(*data.shape[:-2], *shape)


# --- parts ----------------------------------------------------------------------------------------


def _turned(
    planes: npt.ArrayLike,
    angle_rad: npt.ArrayLike,
    flip: npt.ArrayLike,
    order: int,
    side: int | None,
    outside: float,
    back: bool,
) -> np.ndarray:
    data, angles, flips = np.asarray(planes), np.asarray(angle_rad, np.float64), np.asarray(flip)
    if side is not None and side < 1:
        raise ReadingError(f"a side of {side} pixels; give 1 or more")
    single = angles.ndim == 0 and flips.ndim == 0
    if data.ndim < 2 or (data.ndim < 3 and not single) or data.ndim > 4:
        raise ReadingError(f"planes have shape {data.shape}; give (B, C, H, W) or (B, H, W), with an angle an image")
    stack = data.reshape(1, -1, *data.shape[-2:]) if single else data
    angles, flips = _one_each("angles", angles, len(stack)), _one_each("flips", flips, len(stack))
    if not np.isfinite(angles).all():
        raise ReadingError(f"{int((~np.isfinite(angles)).sum())} angles are not finite; leave out unmapped images")
    if not np.isin(flips, (0, 1)).all():
        raise ReadingError(f"flips hold {np.unique(flips)[:5].tolist()}; they are 0 or 1")
    here = cast(tuple[int, int], data.shape[-2:])
    there = here if side is None else (side, side)

    def source(row: int) -> PixelMap:
        if back:
            return pixel_map(float(angles[row]), bool(flips[row]), there, here).inverse()
        return pixel_map(float(angles[row]), bool(flips[row]), here, there)

    return _each(stack, there, order, source, outside).reshape(*data.shape[:-2], *there)


def _each(
    data: np.ndarray, shape: tuple[int, int], order: int, source: Callable[[int], PixelMap], outside: float = 0.0
) -> np.ndarray:
    """Planes (B, ..., h, w) sampled at ``source(row)`` of the pixels of ``shape``."""
    if order not in ORDERS:
        raise ReadingError(f"interpolation of order {order}; use 0 (nearest), 1 (bilinear) or 3 (cubic spline)")
    if order and data.dtype.kind not in "fiub":
        raise ReadingError(f"planes of type {data.dtype} cannot be interpolated; give real numbers")
    found = np.empty((*data.shape[:-2], *shape), data.dtype if order == 0 else np.float32)
    for row in range(len(data)):
        planes = data[row].reshape(-1, *data.shape[-2:])
        found[row] = _sampled(planes, source(row), shape, order, outside).reshape(found.shape[1:])
    return found


def _sampled(planes: np.ndarray, source: PixelMap, shape: tuple[int, int], order: int, outside: float) -> np.ndarray:
    """Planes (M, h, w) at the ``source`` of every pixel of ``shape``: (M, *shape)."""
    position = source(np.moveaxis(np.indices(shape), 0, -1))
    nearest = np.floor(position + 0.5).astype(np.int64)
    last = np.array(planes.shape[1:]) - 1
    row, column = (np.clip(nearest[..., axis], 0, last[axis]) for axis in (0, 1))
    if order == 0:
        inside = ((nearest >= 0) & (nearest <= last)).all(axis=-1)
        return np.where(inside, planes[:, row, column], np.asarray(outside).astype(planes.dtype))
    from scipy.ndimage import affine_transform

    inside = ((position >= -EDGE_PIXELS) & (position <= last + EDGE_PIXELS)).all(axis=-1)
    options: dict[str, Any] = {"output_shape": shape, "order": order, "mode": "mirror", "output": np.float32}
    found = np.empty((len(planes), *shape), np.float32)
    for number, plane in enumerate(planes):
        finite = np.isfinite(plane)
        whole = finite.all()
        filled = plane if whole else np.where(finite, plane, 0)
        found[number] = affine_transform(filled.astype(np.float64), source.matrix, source.offset, **options)
        if not whole:
            found[number][~finite[row, column]] = np.nan
    return np.where(inside, found, np.float32(outside))


def _turn(cosine: float, sine: float) -> np.ndarray:
    return np.array([[cosine, -sine], [sine, cosine]])


def _about(matrix: np.ndarray, there: np.ndarray, here: np.ndarray) -> PixelMap:
    """The map with ``matrix`` that takes the point ``here`` to ``there``."""
    return PixelMap(matrix, there - matrix @ here)


def _centre(shape: tuple[int, int]) -> np.ndarray:
    return (np.array(shape, np.float64) - 1) / 2


def _batch(planes: npt.ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    data = np.asarray(planes)
    if data.ndim not in (3, 4) or data.shape[-2:] != shape:
        raise ReadingError(f"planes have shape {data.shape}; the geometry needs (B, C, {shape[0]}, {shape[1]})")
    return data


def _checked_transforms(transform: npt.ArrayLike, count: int, geometry: Geometry) -> np.ndarray:
    t = _one_each("transforms", np.asarray(transform), count)
    if t.dtype.kind not in "iu" or (count and not (t.min() >= 0 and t.max() < geometry.transforms)):
        raise ReadingError(
            f"transforms hold {np.unique(t)[[0, -1]].tolist() if count else t.dtype}; this geometry has integers from "
            f"0 to {geometry.transforms - 1} (flip * {geometry.rotations} + rotation): leave out unmapped images"
        )
    return t.astype(np.int64)


def _one_each(name: str, values: np.ndarray, count: int) -> np.ndarray:
    if values.ndim == 0:
        return np.full(count, values)
    if values.shape != (count,):
        raise ReadingError(f"{name} have shape {values.shape} for {count} images; give one an image, or one for all")
    return values
