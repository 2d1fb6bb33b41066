"""Steps that change the pixel grid: block means, and a common physical scale by redshift."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skysom.engine.errors import PreprocessError
from skysom.engine.preprocess.batch import Batch
from skysom.engine.preprocess.registry import SIDES, positive, step


@step
def block_mean(batch: Batch, *, max_side: int = 96) -> Batch:
    """Shrink images by a whole factor, the least that brings the side to ``max_side`` or below.

    A new pixel is the mean of the kept pixels of its block, and is kept when there is one. Surplus
    pixels are cropped at all edges alike; only where an even factor meets an odd side the centre moves
    by half an (old) pixel. The noise is forgotten.
    """
    factor, side, start = _blocks(batch.side, max_side)
    if factor == 1:
        return batch
    count, channels = batch.images.shape[:2]
    inside = slice(start, start + factor * side)
    mask = batch.mask[..., inside, inside].reshape(count, channels, side, factor, side, factor)
    values = np.where(batch.mask, batch.images, 0)[..., inside, inside].reshape(mask.shape)
    # One axis after the other: the order of summation must not depend on the size of the batch.
    number = mask.sum(axis=5).sum(axis=3)
    total = values.sum(axis=5, dtype=np.float64).sum(axis=3)
    return replace(
        batch,
        images=(total / np.where(number, number, np.nan)).astype(np.float32),
        mask=number > 0,
        noise=np.full_like(batch.noise, np.nan),
        pixel_scale_arcsec=None if batch.pixel_scale_arcsec is None else batch.pixel_scale_arcsec * factor,
    )


def _blocks(side: int, max_side: int) -> tuple[int, int, int]:
    """Factor, new side, and first pixel used, so that as much is cropped before as behind."""
    positive("block_mean", max_side=max_side)
    factor = -(-side // max_side)
    new = side // factor
    if (side - factor * new) % 2 and factor % 2 and new > 1:
        new -= 1
    return factor, new, (side - factor * new) // 2


@step
def physical_scale(batch: Batch, *, kpc_side: float = 500.0, side_pixels: int | None = None) -> Batch:
    """Resample so that every image spans ``kpc_side`` kiloparsec at its source's redshift.

    Proper transverse distance in the Planck 2018 cosmology; linear interpolation about the image centre,
    smoothed before where pixels become larger. Values stay surface brightness (per pixel or beam as
    they came); the dimming with redshift is not corrected. What lies beyond the image is missing.

    Parameters
    ----------
    side_pixels : side of the result, by default that of the images.

    Needs the redshifts and the pixel scale. A redshift that is not finite and above 0 fails its image with
    ``bad_redshift``, one that leaves a channel without data with ``empty_mask``. The noise is
    forgotten.
    """
    positive("physical_scale", kpc_side=kpc_side, side_pixels=side_pixels)
    if batch.redshift is None or batch.pixel_scale_arcsec is None:
        missing = "redshifts" if batch.redshift is None else "pixel scale"
        raise PreprocessError(
            f"step 'physical_scale' needs redshifts and a pixel scale, the {missing} is missing; "
            "name the redshift column and the pixel scale, put the step where both are known, or remove it"
        )
    redshift, scale_arcsec = batch.redshift, batch.pixel_scale_arcsec
    good = np.isfinite(redshift) & (redshift > 0)
    batch = batch.fail(~good, "bad_redshift")
    side = side_pixels or batch.side
    shape = (*batch.images.shape[:2], side, side)
    images = np.full(shape, np.nan, dtype=np.float32)
    rows = np.flatnonzero(batch.ok)
    # Old pixels along a new pixel.
    steps = kpc_side / side / (_kpc_per_arcsec(redshift[rows]) * scale_arcsec)
    for row, size in zip(rows, steps, strict=True):
        for channel in range(shape[1]):
            images[row, channel] = _zoom(batch.images[row, channel], batch.mask[row, channel], size, side)
    mask = np.isfinite(images)
    batch = replace(batch, images=images, mask=mask, noise=np.full_like(batch.noise, np.nan), pixel_scale_arcsec=None)
    return batch.fail(~mask.any(axis=(2, 3)), "empty_mask")


def _kpc_per_arcsec(redshift: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Proper transverse kiloparsec per arcsecond."""
    from astropy.cosmology import Planck18

    if not redshift.size:
        return redshift
    return np.asarray(Planck18.kpc_proper_per_arcmin(redshift).to_value("kpc / arcmin")) / 60


def _zoom(
    image: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], size: float, side: int
) -> npt.NDArray[np.float64]:
    """(side, side) pixels of ``size`` old ones about the centre; NaN where half the data is missing."""
    values, weight = np.where(mask, image, 0).astype(np.float64), mask.astype(np.float64)
    blur = max(0.0, (size - 1) / 2)  # a half-width of the new pixel beyond the old one, against aliasing
    offset = (len(image) - 1) / 2 - size * (side - 1) / 2

    def sample(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        smooth = ndimage.gaussian_filter(plane, blur, mode="constant") if blur else plane
        return ndimage.affine_transform(smooth, (size, size), (offset, offset), (side, side), order=1)

    share = sample(weight)  # dividing by it makes missing pixels count for nothing, not for zero
    return np.where(share > 0.5, sample(values) / np.where(share > 0, share, 1), np.nan)


SIDES["block_mean"] = lambda side, max_side=96: _blocks(side, max_side)[1]
SIDES["physical_scale"] = lambda side, kpc_side=500.0, side_pixels=None: side_pixels or side
