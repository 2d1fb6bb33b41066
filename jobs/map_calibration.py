"""Calibrating the certified search on a survey, before it is mapped."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from skysom.cluster.executors import one_thread
from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.calibration import calibration_of
from skysom.engine.certified import Calibration, CertifiedSearch
from skysom.engine.geometry import Geometry
from skysom.jobs.map_method import Method
from skysom.jobs.preprocess import PreparedReader
from skysom.jobs.progress import Progress, say
from skysom.storage.survey import CHUNK_IMAGES

IMAGES_A_CHUNK = 8
"""Images taken of each chunk that is read: an eighth of it."""
MOST_COST = 0.5
"""Exact searches that the candidates of an image may cost; beyond, certified saves too little."""
QUIET_S = 2.0
"""Seconds before there is a progress."""


def sample_rows(wanted: np.ndarray, images: int, seed: int) -> np.ndarray:
    """Rows (n,) int64, in order, of a random sample of ``images`` of the rows ``wanted`` (all,) bool; all where fewer.

    Images are drawn at random, and with each of them 7 others (more in a small survey) of its chunk of 64 rows, which
    is read and decompressed as a whole: an eighth of the reading. The limit of the calibration counts the images as
    if each had been drawn for itself. That assumes that neighbours in the catalogue are no more alike than other
    sources; where they are (a catalogue ordered by kind or by field), the sample tells as much as fewer images would.
    It depends on the rows and the seed alone, not on shards or workers.
    """
    rows, rng = np.flatnonzero(wanted), np.random.default_rng([seed, 1])
    drawn = rng.permutation(rows)
    chunks = drawn // CHUNK_IMAGES
    _, first = np.unique(chunks, return_index=True)
    order = chunks[np.sort(first)]  # in the order in which their first images were drawn
    # Members of a chunk in drawn order: the first of them is the one that drew the chunk.
    sequence = np.argsort(chunks, kind="stable")
    starts = np.searchsorted(chunks[sequence], order)
    sizes = np.bincount(chunks, minlength=order.max(initial=0) + 1)[order]
    take = IMAGES_A_CHUNK
    while take < CHUNK_IMAGES and np.minimum(sizes, take).sum() < images:
        take *= 2
    found = [drawn[sequence[at : at + min(size, take)]] for at, size in _until(starts, sizes, take, images)]
    return np.sort(np.concatenate(found)[:images]) if found else rows


def _until(starts: np.ndarray, sizes: np.ndarray, take: int, images: int) -> Iterator[tuple[int, int]]:
    """Start and size of the first chunks that hold ``images`` images, ``take`` of each."""
    enough = int(np.searchsorted(np.cumsum(np.minimum(sizes, take)), images)) + 1
    return zip(starts[:enough].tolist(), sizes[:enough].tolist(), strict=True)


def prepared_method(
    method: Method,
    reader: PreparedReader,
    wanted: np.ndarray,
    weights: np.ndarray,
    geometry: Geometry,
    images: int,
    seed: int,
) -> Method:
    """``method`` ready to search, calibrated on a sample of ``images`` of the rows ``wanted`` (all,) bool.

    Says what was found, and why a mapping is exact that was to be certified: by ``method``, or because the margin
    leaves so many candidates that little would be saved.
    """
    if method.reason:
        say(f"map: searched exactly, as {method.reason}")
    if not method.certified:
        return method
    began = time.perf_counter()
    found, cost = calibrated(reader, sample_rows(wanted, images, seed), weights, geometry, method.exact_neurons)
    say(
        f"map: certified search calibrated on {found.images:,} images in {time.perf_counter() - began:.0f} s: margin "
        f"{found.margin:.3g}, with 95 % confidence at most {100 * found.miss_limit:.2g} % of the images missed"
    )
    if cost > MOST_COST:
        reason = f"at the calibrated margin of {found.margin:.3g} the candidates cost {cost:.2g} of an exact search"
        say(f"map: searched exactly, as {reason}")
        return Method(reason=reason)
    return replace(method, calibration=found, seed=seed)


def calibrated(
    reader: PreparedReader, rows: np.ndarray, weights: np.ndarray, geometry: Geometry, exact_neurons: int = 1
) -> tuple[Calibration, float]:
    """The margin of the certified search on a map (N, C, D, D), by exact search of the images ``rows`` (n,).

    Also what the candidates within that margin cost, in exact searches (`candidate_cost`), by an eighth of the blocks.
    On one thread, as the workers search: what is found does not depend on the machine's cores. Shows a progress when
    it takes more than two seconds. Raises SurveyError where an image is empty.
    """
    search, kept = CertifiedSearch(weights, geometry, exact_neurons=exact_neurons), list[np.ndarray]()
    found = one_thread(calibration_of, search, _read(reader, rows, kept))
    search = CertifiedSearch(weights, geometry, found.margin, exact_neurons)
    efforts = [one_thread(search.examine, images)[1] for images in kept]
    candidates, alone = (np.concatenate([getattr(e, name) for e in efforts]) for name in ("candidates", "fallback"))
    return found, candidate_cost(geometry, len(weights), float(candidates.mean()), float(alone.mean()))


def candidate_cost(geometry: Geometry, neurons: int, candidates: float, alone: float) -> float:
    """Time that ``candidates`` direct sums an image take, and a share ``alone`` of images left to the exact search.

    In exact searches of an image in a block of 32. By counts and not by the clock, so that the same survey is always
    mapped by the same method. T (N + 45) / 190 direct sums take as long as an exact search, whose interpolation takes
    as long as 45 neurons, and an image that is searched exactly by itself as long as three in a block (measured on one
    core, 56 to 150 pixels; right within a factor of one and a half).
    """
    return 190 * candidates / (geometry.transforms * (neurons + 45)) + 3 * alone


def _read(reader: PreparedReader, rows: np.ndarray, kept: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Images (32, C, H, H) of ``rows``, block by block, every eighth block ``kept``; tells how far they have come."""
    began = time.perf_counter()
    with ExitStack() as stack:
        progress: Progress | None = None
        for first in range(0, len(rows), BLOCK_IMAGES):
            images = reader.rows(rows[first : first + BLOCK_IMAGES])
            if first % (8 * BLOCK_IMAGES) == 0:
                kept.append(images)
            yield images
            if progress is None and time.perf_counter() - began > QUIET_S:
                progress = stack.enter_context(Progress("map: calibration"))
            if progress is not None:
                progress(min(first + BLOCK_IMAGES, len(rows)), len(rows))
