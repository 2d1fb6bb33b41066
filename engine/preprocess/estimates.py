"""Noise of an image from its own pixels, robust against the sources in it."""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import PreprocessError
from skysom.engine.preprocess.batch import Batch
from skysom.engine.preprocess.registry import one_of, positive, step

Method = Literal["mad", "std", "histogram"]

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
FWHM_TO_SIGMA = 2.355
"""Full width at half maximum of a normal distribution in units of its standard deviation."""


@step
def noise(
    batch: Batch,
    *,
    method: Method = "mad",
    clip_rounds: int = 3,
    clip_threshold: float = 3.0,
    ignore_zeros: bool = False,
) -> Batch:
    """Estimate the noise of every image and channel from its kept pixels; sources are clipped away.

    Parameters
    ----------
    method : ``mad`` and ``std``: 1.4826 times the median absolute deviation, or the standard deviation, of
        the pixels left by the clipping; ``histogram``: ``rms_estimate`` (slower, reproduces pyink).
    clip_rounds : how often pixels further than ``clip_threshold`` times the present noise from the
        present median are dropped.
    clip_threshold : in units of the noise; for ``histogram`` in units of the raw median absolute deviation.
    ignore_zeros : leave exact zeros out (mosaics padded with 0 instead of NaN).

    An image without a finite noise above 0 in one of its channels fails with ``no_noise``.
    """
    one_of("noise", "method", method, get_args(Method))
    positive("noise", clip_threshold=clip_threshold)
    if clip_rounds < 0:
        raise PreprocessError(f"step 'noise' has clip_rounds = {clip_rounds}; it must be 0 or more")
    count, channels, side, _ = batch.images.shape
    use = batch.mask & (batch.images != 0) if ignore_zeros else batch.mask
    values = np.where(use, batch.images, np.float32(np.nan)).reshape(count * channels, side * side)
    if method == "histogram":
        sigma = np.array(
            [rms_estimate(row, clip_rounds=clip_rounds, outlier_threshold=clip_threshold) for row in values]
        )
    else:
        sigma = clipped_noise(values, method=method, rounds=clip_rounds, threshold=clip_threshold)
    sigma = np.where(np.isfinite(sigma) & (sigma > 0), sigma, np.nan).astype(np.float32)
    batch = replace(batch, noise=sigma.reshape(count, channels))
    return batch.fail(np.isnan(batch.noise), "no_noise")


def clipped_noise(
    values: npt.NDArray[np.floating],
    *,
    method: Literal["mad", "std"] = "mad",
    rounds: int = 3,
    threshold: float = 3.0,
) -> npt.NDArray[np.floating]:
    """Sigma-clipped noise of each row of (R, P) values; NaN are left out. Returns (R,), NaN for an empty row.

    Rows are sorted once: pixels within a cut are then a slice [first, last) of the row, so that each
    round costs a median by index and a search, not a pass through all pixels.
    """
    rows = np.sort(values, axis=1)  # NaN end up last
    first = np.zeros(len(rows), dtype=np.int64)
    last = np.isfinite(rows).sum(axis=1)
    spread = _spread(rows, first, last, method)
    for _ in range(rounds):
        centre = _median(rows, first, last)
        cut = threshold * spread
        for row in np.flatnonzero(cut > 0):
            inside = rows[row, first[row] : last[row]]
            ends = np.searchsorted(inside, (centre[row] - cut[row], centre[row] + cut[row]), side="left")
            first[row], last[row] = first[row] + ends[0], first[row] + ends[1]
        spread = _spread(rows, first, last, method)
    return spread


def _median(rows: npt.NDArray, first: npt.NDArray, last: npt.NDArray) -> npt.NDArray:
    """Median of the slice [first, last) of each sorted row."""
    index, top = np.arange(len(rows)), rows.shape[1] - 1
    low, high = (first + last - 1) // 2, (first + last) // 2
    middle = (rows[index, np.clip(low, 0, top)] + rows[index, np.clip(high, 0, top)]) / 2
    return np.where(last > first, middle, np.nan)


def _spread(rows: npt.NDArray, first: npt.NDArray, last: npt.NDArray, method: str) -> npt.NDArray:
    """Noise of the slice [first, last) of each sorted row by the median or the standard deviation."""
    result = np.full(len(rows), np.nan, dtype=rows.dtype)
    centre = _median(rows, first, last)
    for row in np.flatnonzero(last > first):
        inside = rows[row, first[row] : last[row]]
        result[row] = (
            np.std(inside, dtype=np.float64)
            if method == "std"
            else MAD_TO_SIGMA * np.median(np.abs(inside - centre[row]))
        )
    return result


def rms_estimate(
    values: npt.ArrayLike,
    *,
    clip: Literal["mad", "std"] = "mad",
    clip_rounds: int = 2,
    bin_fraction: float = 0.25,
    outlier_threshold: float = 3.0,
) -> float:
    """Noise as the width of a parabola fitted to the logarithm of the clipped histogram (pyink's estimator).

    Parameters
    ----------
    values : any shape; non-finite values are left out.
    clip : spread that sets the cut, about the median: the raw median absolute deviation (not scaled to a
        standard deviation), or the standard deviation.
    bin_fraction : a bin enters the fit with at least this fraction of the highest count.
    outlier_threshold : cut in units of the spread.

    Returns
    -------
    float in the units of ``values``; NaN when there is nothing to fit (constant or empty values, or a
    histogram without a peak).
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    for _ in range(clip_rounds):
        if not data.size:
            return float("nan")
        distance = np.abs(data - np.median(data))
        spread = np.median(distance) if clip == "mad" else np.std(data)
        data = data[distance < outlier_threshold * spread]
    if data.size < 2 or not data.max() > data.min():
        return float("nan")
    for refinement in (1, 2, 3, 4):  # finer bins until enough of them are high
        counts, edges = np.histogram(data, bins=50 * refinement)
        high = counts >= bin_fraction * counts.max()
        if high.sum() >= 5:
            break
    if high.sum() < 3:
        return float("nan")
    # In units of the range, so that the fit is as well conditioned for Jy as for mJy.
    centres = (edges[1:] + edges[:-1]) / 2
    middle, extent = centres.mean(), edges[-1] - edges[0]
    a, b, c = np.polyfit((centres[high] - middle) / extent, np.log10(counts[high] / counts.max()), 2)
    discriminant = b * b - 4 * a * (c - np.log10(0.5))
    if not (discriminant > 0 and a < 0):
        return float("nan")
    return float(np.sqrt(discriminant) / abs(a) * extent / FWHM_TO_SIGMA)
