"""Pixel values: transfer functions, scaling to [0, 1], weights of channels, missing pixels."""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skysom.engine.errors import PreprocessError
from skysom.engine.preprocess.batch import Batch
from skysom.engine.preprocess.registry import one_of, positive, step
from skysom.engine.preprocess.segmentation import label_islands

Function = Literal["linear", "log", "sqrt", "asinh"]
Per = Literal["image", "island"]


@step
def transfer(
    batch: Batch,
    *,
    function: Function = "sqrt",
    softening: float = 3.0,
    channels: tuple[int, ...] | None = None,
) -> Batch:
    """Compress the dynamic range, so that faint lobes count beside a bright core.

    Parameters
    ----------
    function : ``linear`` (nothing), ``log`` (base 10), ``sqrt`` or ``asinh`` (x / (softening * noise): linear
        below, logarithmic above, also for negative values).
    softening : in units of the noise, for ``asinh`` only, which needs a ``noise`` step before it.

    Pixels without a result (``log`` of values up to 0, ``sqrt`` of negative ones) leave the mask; an
    image left without a pixel fails with ``empty_mask``. The noise is forgotten.
    """
    one_of("transfer", "function", function, get_args(Function))
    chosen = batch.select(channels)
    if function == "linear":
        return batch
    if function == "asinh":
        positive("transfer", softening=softening)
        scale = (softening * batch.need_noise("transfer").noise)[:, :, None, None]
        values = np.arcsinh(batch.images / scale)
    else:
        values = np.log10(batch.images) if function == "log" else np.sqrt(batch.images)
    images = np.where(chosen[:, None, None], values, batch.images)
    noise = np.where(chosen, np.float32(np.nan), batch.noise)
    return replace(batch, images=images, noise=noise).keep(np.isfinite(images), chosen)


@step
def min_max(
    batch: Batch, *, per: Per = "image", inside_mask: bool = True, channels: tuple[int, ...] | None = None
) -> Batch:
    """Scale values linearly so that the least becomes 0 and the greatest 1, channel by channel.

    Parameters
    ----------
    per : ``image`` takes the extremes of all pixels, ``island`` scales each island of kept pixels by its own
        (an island of one value becomes 0).
    inside_mask : extremes of the kept pixels only; false: of every pixel that has data (``image`` only).

    An image with one value in a selected channel fails with ``constant``, one without a kept pixel with
    ``empty_mask``. The noise is forgotten.
    """
    one_of("min_max", "per", per, get_args(Per))
    if per == "island" and not inside_mask:
        raise PreprocessError(
            "step 'min_max' has per = 'island' and inside_mask = False; islands exist inside the mask only"
        )
    chosen = batch.select(channels)
    low, high = batch.extremes(everywhere=not inside_mask)
    batch = batch.fail(~batch.mask.any(axis=(2, 3)) & chosen, "empty_mask")
    batch = batch.fail((high <= low) & chosen, "constant")
    if per == "image":
        bottom, span = low[:, :, None, None], (high - low)[:, :, None, None]
    else:
        bottom, span = _island_scale(batch)
    images = np.where(span > 0, (batch.images - bottom) / span, np.float32(0)).astype(np.float32)
    images = np.where(chosen[:, None, None], images, batch.images)
    batch = replace(batch, images=images, noise=np.where(chosen, np.float32(np.nan), batch.noise))
    if per == "image":
        return batch
    low, high = batch.extremes()  # every island had one value only
    return batch.fail((high <= low) & chosen, "constant")


def _island_scale(batch: Batch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(B, C, H, W) least value and range of the island each kept pixel belongs to."""
    stack = batch.mask.reshape(-1, batch.side, batch.side)
    labels = np.where(stack, label_islands(stack), 0).reshape(batch.mask.shape)
    numbers = np.arange(labels.max(initial=0) + 1)
    values = np.where(batch.mask, batch.images, np.float32(0))
    low = np.asarray(ndimage.minimum(values, labels, numbers), dtype=np.float32)
    high = np.asarray(ndimage.maximum(values, labels, numbers), dtype=np.float32)
    return low[labels], (high - low)[labels]


@step
def channel_weights(batch: Batch, *, weights: tuple[float, ...]) -> Batch:
    """Multiply each channel by its weight: how much it counts in the distance to a neuron."""
    count = batch.images.shape[1]
    if len(weights) != count:
        raise PreprocessError(
            f"step 'channel_weights' has {len(weights)} weights for {count} channels; give one a channel"
        )
    factor = np.asarray(weights, dtype=np.float32)
    if not (np.isfinite(factor).all() and (factor >= 0).all() and factor.any()):
        raise PreprocessError(
            f"step 'channel_weights' has weights {tuple(weights)}; use finite numbers from 0 up, not all 0"
        )
    return replace(batch, images=batch.images * factor[:, None, None], noise=batch.noise * factor)


@step
def fill_nan(batch: Batch, *, value: float = 0.0) -> Batch:
    """Give pixels without data a value and count them as data; put it first in a chain.

    Without it such pixels stay out of every estimate and are 0 in the end.
    """
    if not np.isfinite(value):
        raise PreprocessError(f"step 'fill_nan' has value = {value}; use a finite number")
    missing = ~np.isfinite(batch.images)
    images = np.where(missing, np.float32(value), batch.images)
    return replace(batch, images=images, mask=batch.mask | missing)


def balanced_weights(channel_sums: npt.ArrayLike) -> tuple[float, ...]:
    """Weights for ``channel_weights`` that make the median sum of every channel the same, adding up to 1.

    ``channel_sums`` is (N, C): the sum of the pixels of each prepared image and channel. PreprocessError
    when a channel has no finite median above 0.
    """
    sums = np.asarray(channel_sums, dtype=np.float64)
    sums = sums[np.isfinite(sums).all(axis=1)]
    median = np.median(sums, axis=0) if len(sums) else np.full(sums.shape[1:], np.nan)
    if not (median > 0).all():
        raise PreprocessError(
            f"the median sums of the channels are {np.round(median, 6).tolist()}, all must be above 0; "
            "give the weights, or check the preprocessing of the channel"
        )
    return tuple((1 / median / (1 / median).sum()).tolist())
