"""How wide the margin of the certified search must be on a map: measured by exact search of a sample."""

from collections.abc import Iterable, Sequence

import numpy as np

from skysom.engine.blocks import BLOCK_IMAGES, padded
from skysom.engine.certified import CONFIDENCE, Calibration, CertifiedSearch
from skysom.engine.errors import EngineError
from skysom.engine.match import Match
from skysom.engine.search import as_batch, geometry_of, weighted
from skysom.engine.som import Som

SAFETY = 4.0
"""The margin is this many times what the sample needed."""
LEAST_MARGIN = 4e-3
"""Smallest margin: a sample does not know the tail of what a survey needs, and narrower margins save nothing."""


def calibrate(
    som: Som,
    sample: np.ndarray,
    rotations: int = 360,
    flip: bool = True,
    region: str = "quadratic",
    region_side: int | None = None,
    *,
    safety: float = SAFETY,
    inner_side: int = 0,
    channel_weights: Sequence[float] | None = None,
) -> Calibration:
    """Find the margin of ``method="certified"`` for a map by exact search of ``sample``.

    Parameters
    ----------
    som : the map, NumPy. sample : (B, C, H, W) or (B, H, W) float32, drawn at random from the survey; images with NaN
        do not count. rotations, flip, region, region_side, inner_side, channel_weights : as for
        `best_match`.
    safety : the margin is so many times the largest share that an image of the sample needed.

    Raises
    ------
    EngineError : a sample without a finite image, or safety below 1.

    Notes
    -----
    An image needs (S - min S) / e, with S the score of its exact best match and e = |T x| |w|. Of n images drawn
    at random, none exceeded the largest; with 95 % confidence at most 1 - 0.05^(1/n) of all images do (0.3 % for
    1,000). The margin is wider, so no more exceed it; how many fewer a sample cannot tell, for needs have a long tail.
    """
    images = as_batch(np.asarray(sample, np.float32))
    geometry = geometry_of(images, som, rotations, flip, region, region_side, inner_side)
    if channel_weights is not None:
        images, som = weighted(images, som, channel_weights, xp=np)
    starts = range(0, len(images), BLOCK_IMAGES)
    blocks = (images[first : first + BLOCK_IMAGES] for first in starts)
    return calibration_of(CertifiedSearch(som.weights, geometry), blocks, safety=safety)


def calibration_of(search: CertifiedSearch, blocks: Iterable[np.ndarray], *, safety: float = SAFETY) -> Calibration:
    """As `calibrate`, of images that come in blocks (B, C, H, H), B <= 32, against the map of ``search``.

    Raises EngineError where none of the images is finite, or safety is below 1.
    """
    if safety < 1:
        raise EngineError(f"safety is {safety}; the margin must not be smaller than what the sample needed (1 or more)")
    found = [needed_margin(search, images, search.exact(images)) for images in blocks]
    shares, agree = (np.concatenate([np.zeros(0), *(pair[i] for pair in found)]) for i in (0, 1))
    good = np.isfinite(shares)
    count = int(np.count_nonzero(good))
    if count == 0:
        raise EngineError("the calibration sample holds no finite image; give it some images of the survey")
    largest, limit = float(shares[good].max()), 1 - (1 - CONFIDENCE) ** (1 / count)
    return Calibration(max(safety * largest, LEAST_MARGIN), largest, count, limit, float(agree[good].mean()))


def needed_margin(search: CertifiedSearch, images: np.ndarray, match: Match) -> tuple[np.ndarray, np.ndarray]:
    """Share of e that the exact best match of each image (B,) needs, and whether it has the best score.

    images (B, C, H, H), B <= 32; match as the exact search has it; NaN for images that are not finite.
    """
    if search.geometry.base_rotations == 1:
        return np.where(np.isfinite(match.bmu_distance), 0.0, np.nan), np.ones(len(images), bool)
    block, finite, count = padded(images)
    unit = np.full(len(block), -1)
    unit[:count] = np.where(finite[:count], match.bmu, -1)

    scored = search.score(block, unit >= 0, np.arange(len(search.scores.norms))[:, None] == unit)
    own = np.flatnonzero(scored.neuron == unit[scored.image])
    scored = scored.pairs(own)
    values = search.values(scored)
    transform = match.transform[np.arange(count), match.bmu]
    score = np.full(len(block), np.nan)
    score[scored.image] = values[np.arange(len(values)), transform[scored.image]]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (score - scored.lowest) / search.scale(scored.level)
    # A blank image has nothing to rank: every transform has the score of the best.
    share[((scored.level == 0) | (search.brightness == 0)) & (unit >= 0)] = 0
    return np.maximum(share[:count], 0), (scored.squared.argmin(axis=0) == unit)[:count]
