"""Sources like one of a survey: by their distances to all neurons, or by their images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from skysom.engine.reading.similar import SimilarProfiles, nearest_images
from skysom.jobs.errors import ConfigError
from skysom.jobs.mapping_reader import MappingReader, prepared_as_mapped
from skysom.jobs.preprocess import PreparedReader

By = Literal["profile", "image"]
Tell = Callable[[int, int], None]
ROWS_AT_ONCE = 256
"""Candidates whose images are held at once."""


@dataclass(frozen=True)
class Similar:
    """Sources like one, the most similar first.

    rows (n,) int64; distance (n,) float64, between profiles or images; rotation (n,) int64 and flip (n,) bool that
    bring each image onto the query, None where profiles were compared.
    """

    rows: np.ndarray
    distance: np.ndarray
    rotation: np.ndarray | None = None
    flip: np.ndarray | None = None


def similar_sources(
    reader: MappingReader,
    row: int,
    count: int,
    *,
    by: By = "profile",
    among: int | None = None,
    normalised: bool = False,
    excluded: np.ndarray | None = None,
    tell: Tell | None = None,
) -> Similar:
    """The ``count`` sources most like the one in ``row``, which is not among them.

    Parameters
    ----------
    by : "profile" compares distances to all neurons: one pass over the mapping. "image" compares images at every
        rotation and flip of the map, as a search on a map of that one image does.
    among : by image, only so many sources whose profiles are nearest are searched; None: all, which takes as long as
        mapping them onto a single neuron.
    normalised, excluded : of profiles, as `SimilarProfiles`.
    tell : called with rows done and in all.

    Raises
    ------
    ConfigError : a row the survey has not, or whose image is not usable; profiles of a mapping that keeps the best few
    only. ReadingError : a source that was not mapped. MissingStageError : no prepared images.
    """
    if not 0 <= row < len(reader):
        raise ConfigError(f"row {row} was asked for; the survey has 0 to {len(reader) - 1}")
    if by == "image" and among is None:
        prepared = prepared_as_mapped(reader)
        blocks = _all_images(reader, prepared, tell)
        return _by_image(reader, prepared, row, count, blocks)
    if reader.keep is not None:
        raise ConfigError(
            f"mapping {reader.name!r} keeps the best {reader.keep} neurons of an image, profiles need all "
            f"{reader.neurons}; map again without map.keep, or compare images (by='image') of the whole survey"
        )
    profile = reader.rows("distance", np.array([row]))[0]
    wanted = count if by == "profile" else max(count, among or 0)
    kept = SimilarProfiles(profile, wanted, normalised=normalised, excluded=excluded, leave_out=[row])
    for block in reader.blocks(["distance"]):
        kept.update(block.start, block["distance"])
        if tell is not None:
            tell(block.stop, len(reader))
    if by == "profile":
        return Similar(kept.rows, kept.distances)
    prepared, rows = prepared_as_mapped(reader), np.sort(kept.rows)
    found = _by_image(reader, prepared, row, count, _some_images(prepared, rows), numbered=False)
    return replace(found, rows=rows[found.rows])


def _by_image(
    reader: MappingReader,
    prepared: PreparedReader,
    row: int,
    count: int,
    blocks: Iterator[tuple[int, np.ndarray, np.ndarray]],
    *,
    numbered: bool = True,
) -> Similar:
    """Nearest images; ``numbered``: by rows of the survey, so that the query is to be left out."""
    if not prepared.usable(row, row + 1)[0]:
        raise ConfigError(f"the image of row {row} is not usable ({reader.survey.statuses(slice(row, row + 1))[0]})")
    found = nearest_images(prepared.rows([row])[0], blocks, reader.geometry, count, leave_out=[row] if numbered else [])
    return Similar(found.rows, found.distance, found.rotation, found.flip)


def _all_images(
    reader: MappingReader, prepared: PreparedReader, tell: Tell | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for start, stop in reader.survey.shards():
        images, usable = prepared.read(start, stop)
        yield start, images, usable
        if tell is not None:
            tell(stop, len(reader))


def _some_images(prepared: PreparedReader, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Images of some usable rows, numbered by their place among them."""
    for first in range(0, len(rows), ROWS_AT_ONCE):
        images = prepared.rows(rows[first : first + ROWS_AT_ONCE])
        yield first, images, np.ones(len(images), bool)
