"""The region around a source in one channel, used to mask another channel."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skysom.engine.errors import PreprocessError
from skysom.engine.preprocess.batch import Batch
from skysom.engine.preprocess.registry import positive, step


@step
def convex_hull(
    batch: Batch,
    *,
    source_channel: int = 0,
    target_channels: tuple[int, ...] | None = None,
    threshold: float | None = None,
    smoothing_sigma: float = 0.0,
) -> Batch:
    """Mask channels outside the convex hull of another channel's source (infrared by radio).

    Parameters
    ----------
    source_channel : the hull encloses the kept pixels of this channel.
    target_channels : channels to mask; None: all but the source.
    threshold : take only source pixels of at least this many times the noise into the hull.
    smoothing_sigma : widen the hull by smoothing it with a Gaussian of this many pixels; it ends where
        1 % of it is left.

    An image whose hull is empty, or holds no pixel of a target channel, fails with ``empty_mask``.
    """
    batch.select((source_channel,))
    if smoothing_sigma:
        positive("convex_hull", smoothing_sigma=smoothing_sigma)
    others = tuple(c for c in range(batch.images.shape[1]) if c != source_channel)
    if not others and target_channels is None:
        raise PreprocessError("step 'convex_hull' has no channel to mask, the images have one; remove it")
    targets = batch.select(others if target_channels is None else target_channels)
    source = batch.mask[:, source_channel]
    if threshold is not None:
        limit = threshold * batch.need_noise("convex_hull").noise[:, source_channel]
        source = source & (batch.images[:, source_channel] >= limit[:, None, None])
    hulls = np.zeros_like(source)
    for row in np.flatnonzero(batch.ok):
        hulls[row] = hull_of(source[row], smoothing_sigma=smoothing_sigma)
    empty = ~source.any(axis=(1, 2))
    return batch.fail(empty, "empty_mask").keep(hulls[:, None], targets)


def hull_of(
    region: npt.NDArray[np.bool_], *, smoothing_sigma: float = 0.0, smoothing_level: float = 0.01
) -> npt.NDArray[np.bool_]:
    """Convex hull of the true pixels of a 2-d region.

    The hull encloses whole pixels, not only their centres. With ``smoothing_sigma`` (pixels) it is convolved
    with a normalised Gaussian, zero outside the image, cut at 4 sigma, and true from ``smoothing_level``
    up. An empty region has an empty hull.
    """
    from skimage.morphology import convex_hull_image

    if not region.any():
        return np.zeros_like(region)
    hull = convex_hull_image(region)
    if not smoothing_sigma:
        return hull
    smooth = ndimage.gaussian_filter(hull.astype(np.float64), smoothing_sigma, mode="constant", truncate=4.0)
    return smooth >= smoothing_level
