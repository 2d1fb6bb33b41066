"""Masks and weights that follow from the place of a pixel or its signal to noise."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import PreprocessError
from skysom.engine.preprocess.batch import Batch
from skysom.engine.preprocess.estimates import FWHM_TO_SIGMA
from skysom.engine.preprocess.registry import positive, step


@step
def signal_to_noise_mask(batch: Batch, *, threshold: float = 3.0, channels: tuple[int, ...] | None = None) -> Batch:
    """Keep the pixels above ``threshold`` times the noise of their image and channel.

    Values are compared as they are: the background is taken to be at 0, as in radio images. Needs a
    ``noise`` step before it. An image without such a pixel in a selected channel fails with
    ``empty_mask``.
    """
    if not np.isfinite(threshold):
        raise PreprocessError(f"step 'signal_to_noise_mask' has threshold = {threshold}; use a finite number")
    chosen = batch.select(channels)
    limit = (threshold * batch.need_noise("signal_to_noise_mask").noise)[:, :, None, None]
    return batch.keep(batch.images > limit, chosen)


@step
def circular_mask(batch: Batch, *, radius_pixels: float | None = None, scale: float | None = None) -> Batch:
    """Keep a disc about the image centre (side - 1) / 2.

    The radius is ``radius_pixels``, or ``scale`` times the side; neither: half the side. A pixel is kept
    when its centre lies within the radius. An image left without a pixel fails with ``empty_mask``.
    """
    if radius_pixels is not None and scale is not None:
        raise PreprocessError(
            f"step 'circular_mask' has radius_pixels = {radius_pixels} and scale = {scale}; give one of them"
        )
    positive("circular_mask", radius_pixels=radius_pixels, scale=scale)
    radius = radius_pixels if radius_pixels is not None else (scale or 0.5) * batch.side
    return batch.keep(disc(batch.side, radius))


@step
def square_mask(batch: Batch, *, side_pixels: int | None = None) -> Batch:
    """Keep a square of ``side_pixels`` about the image centre (side - 1) / 2.

    A square can only be centred if its side is even as the image's is, or odd as it: otherwise one pixel is
    added. None takes the largest centred square that no rotation moves out of the image (side / sqrt(2)).
    An image left without a pixel fails with ``empty_mask``.
    """
    positive("square_mask", side_pixels=side_pixels)
    if side_pixels is None:
        fits = int(batch.side / np.sqrt(2))
        side_pixels = max(1, fits - (batch.side - fits) % 2)
    return batch.keep(square(batch.side, side_pixels))


@step
def gaussian_weight(batch: Batch, *, fwhm_fraction: float = 0.5, sigma_pixels: float | None = None) -> Batch:
    """Weight pixels by a Gaussian of their distance from the image centre, 1 in the centre.

    The full width at half maximum is ``fwhm_fraction`` of the side, unless ``sigma_pixels`` is given.
    """
    positive("gaussian_weight", fwhm_fraction=fwhm_fraction, sigma_pixels=sigma_pixels)
    sigma = sigma_pixels if sigma_pixels is not None else fwhm_fraction * batch.side / FWHM_TO_SIGMA
    weight = np.exp(-squared_radius(batch.side) / (2 * sigma**2)).astype(np.float32)
    return replace(batch, images=batch.images * weight, noise=np.full_like(batch.noise, np.nan))


def squared_radius(side: int) -> npt.NDArray[np.float64]:
    """(side, side) squared distance of the pixels from the image centre (side - 1) / 2, in pixels^2."""
    offset = np.arange(side) - (side - 1) / 2
    return offset[:, None] ** 2 + offset[None, :] ** 2


def disc(side: int, radius: float) -> npt.NDArray[np.bool_]:
    """(side, side) bool, pixels whose centre is at most ``radius`` pixels from the image centre."""
    return squared_radius(side) <= radius**2


def square(side: int, width: int) -> npt.NDArray[np.bool_]:
    """(side, side) bool, the centred square of ``width`` pixels (one more where it could not be centred)."""
    inside = np.abs(2 * np.arange(side) - (side - 1)) <= width - 1 + (side - width) % 2
    return inside[:, None] & inside[None, :]
