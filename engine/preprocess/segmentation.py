"""Islands: connected groups of kept pixels, and which of them belong to the source in the centre."""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skysom.engine.preprocess.batch import Batch
from skysom.engine.preprocess.masking import disc
from skysom.engine.preprocess.registry import one_of, positive, step

Keep = Literal["central", "brightest"]

# Pixels touching at an edge or a corner are connected; images of a stack are not.
_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
_NEIGHBOURS[1] = True


@step
def islands(
    batch: Batch,
    *,
    minimum_pixels: int = 5,
    closing: bool = True,
    channels: tuple[int, ...] | None = None,
) -> Batch:
    """Drop islands of fewer than ``minimum_pixels`` kept pixels: noise peaks and hot pixels.

    Put it after ``signal_to_noise_mask``. With ``closing`` parts that a one-pixel gap divides are one island;
    the pixels that bridge the gap are counted but stay masked, so nothing below the threshold comes back. An
    image left without an island in a selected channel fails with ``empty_mask``.
    """
    positive("islands", minimum_pixels=minimum_pixels)
    chosen = batch.select(channels)
    labels = _label_batch(batch, closing)
    return batch.keep((np.bincount(labels.ravel()) >= minimum_pixels)[labels] & (labels > 0), chosen)


@step
def central_islands(
    batch: Batch,
    *,
    radius_fraction: float = 0.25,
    radius_pixels: float | None = None,
    keep: Keep = "central",
    closing: bool = True,
    channels: tuple[int, ...] | None = None,
) -> Batch:
    """Mask unrelated sources: keep the islands that reach into a disc about the image centre.

    Parameters
    ----------
    radius_fraction : radius of the disc as a fraction of the side.
    radius_pixels : the radius in pixels instead.
    keep : ``central`` keeps every island with a pixel in the disc (both lobes of a double);
        ``brightest`` only the one of these with the greatest sum of pixel values.
    closing : as in ``islands``.

    There is no second guess: an image whose disc no island reaches fails with ``empty_mask``.
    """
    one_of("central_islands", "keep", keep, get_args(Keep))
    positive("central_islands", radius_fraction=radius_fraction, radius_pixels=radius_pixels)
    chosen = batch.select(channels)
    radius = radius_pixels if radius_pixels is not None else radius_fraction * batch.side
    labels = _label_batch(batch, closing)
    kept = np.zeros(labels.max(initial=0) + 1, dtype=bool)
    kept[labels[:, :, disc(batch.side, radius)]] = True
    kept[0] = False
    if keep == "brightest":
        kept = _brightest(labels, batch, kept)
    return batch.keep(kept[labels], chosen)


def label_islands(
    mask: npt.NDArray[np.bool_], *, minimum_pixels: int = 1, closing: bool = True
) -> npt.NDArray[np.int32]:
    """Label the islands of a mask (H, W) or a stack of masks (S, H, W).

    Parameters
    ----------
    minimum_pixels : islands with fewer pixels are not labelled.
    closing : first fill gaps by a binary closing with a 3x3 cross.

    Returns
    -------
    int32 of the mask's shape: 0 outside, 1 to L on the L islands, all of them, in raster order of
    their first pixel and through the whole stack; 8-connected.
    """
    stack = mask.reshape(-1, *mask.shape[-2:])
    if closing:
        stack = close_gaps(stack)
    labels = ndimage.label(stack, structure=_NEIGHBOURS, output=np.int32)[0]
    if minimum_pixels > 1:
        large = np.bincount(labels.ravel()) >= minimum_pixels
        large[0] = False
        labels = np.where(large, np.cumsum(large), 0).astype(np.int32)[labels]
    return labels.reshape(mask.shape)


def close_gaps(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Binary closing of (..., H, W) with a 3x3 cross; pixels beyond the frame take no part."""

    def cross(values: npt.NDArray[np.bool_], combine: np.ufunc) -> npt.NDArray[np.bool_]:
        result = values.copy()
        for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            combine(result[..., here, :], values[..., there, :], out=result[..., here, :])
            combine(result[..., :, here], values[..., :, there], out=result[..., :, here])
        return result

    return cross(cross(mask, np.logical_or), np.logical_and)


def _label_batch(batch: Batch, closing: bool) -> npt.NDArray[np.int32]:
    """(B, C, H, W) labels of the kept pixels, numbered through the batch."""
    stack = batch.mask.reshape(-1, batch.side, batch.side)
    return label_islands(stack, closing=closing).reshape(batch.mask.shape)


def _brightest(labels: npt.NDArray[np.int32], batch: Batch, candidates: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Of the candidate labels the one with the greatest sum of kept pixels in each image and channel."""
    weights = np.where(batch.mask, batch.images, 0).ravel()
    total = np.where(candidates, np.bincount(labels.ravel(), weights, minlength=len(candidates)), -np.inf)
    plane = np.zeros(len(candidates), dtype=np.int64)
    planes = labels.reshape(-1, batch.side, batch.side)
    plane[planes] = np.arange(len(planes))[:, None, None]
    best = np.full(len(planes), -np.inf)
    np.maximum.at(best, plane[1:], total[1:])
    return candidates & (total == best[plane])
