"""Sources like this one: by how far they are from all neurons, or by their images.

Both search block by block and keep a fixed number of rows, so memory does not grow with the survey.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from skysom.engine.blocks import BLOCK_IMAGES
from skysom.engine.errors import ReadingError
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match
from skysom.engine.reading.units import Extremes


class SimilarProfiles:
    """The rows whose distances to all neurons are nearest to a profile, in the Euclidean sense.

    The profile of a source, its distances to all neurons, says what it looks like whatever its orientation, and costs
    no search: see `nearest_images` for the images themselves.

    Parameters
    ----------
    profile : (N,) distances of the source that others are to be like.
    count : how many rows to keep.
    normalised : divide every row by its length first, which leaves out how far it lies from the map as a whole.
    excluded : (N,) bool, neurons left out.
    leave_out : rows that are not wanted, as the source itself.

    Raises
    ------
    ReadingError : a profile that is not finite or whose neurons are all left out, a mask of another size.
    """

    def __init__(
        self,
        profile: np.ndarray,
        count: int,
        *,
        normalised: bool = False,
        excluded: np.ndarray | None = None,
        leave_out: Iterable[int] = (),
    ) -> None:
        values = np.asarray(profile, np.float64)
        usable = np.ones(values.shape, bool) if excluded is None else ~np.asarray(excluded, bool)
        if values.ndim != 1 or usable.shape != values.shape or not usable.any():
            raise ReadingError(
                f"a profile of shape {values.shape} with {np.count_nonzero(usable)} neurons left in, of a mask of "
                f"{usable.shape}; give distances to all neurons and leave one or more in"
            )
        if not np.isfinite(values[usable]).all():
            raise ReadingError("the profile is not finite: that source was not mapped; give one that was")
        length = np.sqrt((values[usable] ** 2).sum()) if normalised else 1.0
        self._profile, self._usable, self._normalised = values / (length or 1.0), usable, normalised
        self._leave_out, self._kept = np.array(sorted(leave_out), np.int64), Extremes(count)

    def update(self, start: int, distance: np.ndarray) -> None:
        """Offer rows ``start``... by their distances (B, N); rows that are not finite are passed over.

        ReadingError for another number of neurons: a mapping of the best few has no profiles.
        """
        from skysom.engine.reading.unit_kernels import profile_distances

        distance = np.ascontiguousarray(distance, np.float32)
        if distance.ndim != 2 or distance.shape[1] != len(self._profile):
            raise ReadingError(
                f"the profile is of {len(self._profile)} neurons, rows have {distance.shape[1:]}; map all neurons "
                "(without map.keep) to compare profiles"
            )
        found = np.empty(len(distance))
        profile_distances(distance, self._profile, self._usable, self._normalised, found)
        rows = np.arange(start, start + len(distance))
        found[np.isin(rows, self._leave_out)] = np.nan
        self._kept.update(rows, found)

    @property
    def rows(self) -> np.ndarray:
        """(n,) int64 rows, the most similar first."""
        return self._kept.rows

    @property
    def distances(self) -> np.ndarray:
        """(n,) float64 Euclidean distances of the profiles of ``rows``."""
        return self._kept.values


@dataclass(frozen=True)
class SimilarImages:
    """Images most like one: rows (n,) int64, the most similar first; distance (n,) float64; rotation (n,) int64 and
    flip (n,) bool, the transform that brings each onto the query."""

    rows: np.ndarray
    distance: np.ndarray
    rotation: np.ndarray
    flip: np.ndarray


def one_image_map(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A map (1, C, D, D) float32 whose neuron is an image (C, H, H), embedded as it would be searched unturned.

    The distance of the image to it is 0 at transform 0. ReadingError for another shape, or pixels not finite.
    """
    from skysom.engine.transforms import transform

    image = np.asarray(image, np.float32)
    side = geometry.image_side
    if image.ndim != 3 or image.shape[1:] != (side, side):
        raise ReadingError(f"the image has shape {image.shape}; this survey's are (channels, {side}, {side})")
    if not np.isfinite(image).all():
        raise ReadingError("the image holds pixels that are not finite; give one that is usable")
    return np.ascontiguousarray(transform(image, 0, geometry)[None], np.float32)


def nearest_images(
    image: np.ndarray,
    blocks: Iterable[tuple[int, np.ndarray, np.ndarray]],
    geometry: Geometry,
    count: int,
    *,
    leave_out: Iterable[int] = (),
) -> SimilarImages:
    """The images nearest to one over all rotations and flips, by an exact search on a map of that one image.

    Parameters
    ----------
    image : (C, H, H) float32, prepared as the others.
    blocks : (first row, images (B, C, H, H), usable (B,) bool) of any B, in any order.
    geometry : sides, region, rotations and flips of the survey's map.
    count : how many to keep.
    leave_out : rows that are not wanted, as the source itself.

    Raises
    ------
    ReadingError : see `one_image_map`. ShapeError : images of another shape.
    """
    search = image_searcher(image, geometry)
    kept, unwanted = Extremes(count), np.array(sorted(leave_out), np.int64)
    transforms: dict[int, int] = {}
    for start, images, usable in blocks:
        for first in range(0, len(images), BLOCK_IMAGES):
            part = slice(first, first + BLOCK_IMAGES)
            rows = start + first + np.arange(len(images[part]))
            wanted = usable[part] & ~np.isin(rows, unwanted)
            if not wanted.any():
                continue
            match = search(images[part])
            kept.update(rows[wanted], match.distance[wanted, 0])
            transforms |= dict(zip(rows[wanted].tolist(), match.transform[wanted, 0].tolist(), strict=True))
        transforms = {row: transforms[row] for row in kept.rows.tolist()}
    found = np.array([transforms[row] for row in kept.rows.tolist()], np.int64)
    flip, rotation = np.divmod(found, geometry.rotations)
    return SimilarImages(kept.rows, kept.values, rotation, flip.astype(bool))


def image_searcher(image: np.ndarray, geometry: Geometry) -> Callable[[np.ndarray], Match]:
    """The exact search against the map of one image: call it on blocks of at most 32 images (B, C, H, H)."""
    from skysom.engine.search import searcher

    return searcher(one_image_map(image, geometry), geometry, "exact")
