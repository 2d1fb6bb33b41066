"""How images lie on the sky: the turn, mirror and scale that a projection has to know, and which of them a survey has.

The projection takes columns to grow to the west and rows to the north, with the source at the centre (side - 1) / 2.
What a survey keeps of its images:

- cut by position and resampled to a scale: so, exactly;
- cut by position on the grid of the tiles: the source lies within half a pixel of the centre, and north is turned by
  the tile's own orientation at the source, which grows with the distance from the tile's centre and towards the poles;
- read from one file a source: as the file has them, resampled about their centre where asked, never turned.

`wcs_orientation` finds the turn of the last two from their world coordinates, `Frames.seen_through` puts it into the
frames. Turns onto the neuron (`bmu_rotation`, `bmu_flip`) enter as they are stored: ``angle_rad = geometry.angle(k)``
and ``flip``, the inverse of `skysom.engine.reading.frames.pixel_map`. What is not corrected is a half pixel at most:
where the sides of image and neuron differ by an odd number, the search copies images at quarter turns with a margin
that lies half a pixel off the centre.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skysom.engine.collation.neighbours import RADIAN_ARCSEC, unit_vectors
from skysom.engine.collation.offsets import tangent_axes
from skysom.engine.collation.projection import Frames
from skysom.engine.errors import CollationError
from skysom.engine.geometry import Geometry

if TYPE_CHECKING:
    from astropy.wcs import WCS


class Orientation(NamedTuple):
    """How images lie on the sky at n positions, (n,) each; NaN (and not mirrored) where a position is not in the image.

    rotation_rad : float64, the turn that takes an image of which north is up and east left onto this one (the sense of
    `neuron_offsets`), before it is mirrored. mirrored : bool, whether rows are then reversed. scale_x_arcsec,
    scale_y_arcsec : float64, arcsec a pixel along columns and rows.
    """

    rotation_rad: np.ndarray
    mirrored: np.ndarray
    scale_x_arcsec: np.ndarray
    scale_y_arcsec: np.ndarray


def wcs_orientation(
    wcs: "WCS", ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike, *, step_arcsec: float = 1.0
) -> Orientation:
    """How an image with a world coordinate system lies on the sky at positions (n,), ICRS degrees.

    From differences of the pixels of positions ``step_arcsec`` to the east, west, north and south. These make a matrix
    2 by 2; its rows are divided by their lengths, the scales, and the turn is the rotation nearest to what is left in
    the Frobenius norm: the orthogonal factor of the polar decomposition (Higham 1986, SIAM J. Sci. Stat. Comput. 7,
    1160), in two dimensions the angle of (m10 - m01, m00 + m11). Axes that are not orthogonal (a shear) are
    approximated by this, each wrong by half the angle by which they miss 90 degrees.
    """
    centres = unit_vectors(ra_deg, dec_deg)
    east_x, east_y, north_x, north_y, north_z = tangent_axes(centres)
    east = np.column_stack([east_x, east_y, np.zeros_like(east_x)])
    north = np.column_stack([north_x, north_y, north_z])
    step = step_arcsec / RADIAN_ARCSEC
    ends = [_pixels(wcs, centres + sign * step * axis) for axis in (east, north) for sign in (1, -1)]
    of_east, of_north = (ends[0] - ends[1]) / (2 * step_arcsec), (ends[2] - ends[3]) / (2 * step_arcsec)
    # Rows x and y, columns west and north: the unit matrix over the scale where north is up and east left.
    matrix = np.stack([-of_east, of_north], axis=-1)
    mirrored = matrix[:, 0, 0] * matrix[:, 1, 1] < matrix[:, 0, 1] * matrix[:, 1, 0]
    matrix[:, 1] *= np.where(mirrored, -1.0, 1.0)[:, None]
    length = np.sqrt((matrix**2).sum(axis=-1))
    unit = matrix / length[..., None]
    rotation = np.arctan2(unit[:, 1, 0] - unit[:, 0, 1], unit[:, 0, 0] + unit[:, 1, 1])
    return Orientation(rotation, mirrored, 1 / length[:, 0], 1 / length[:, 1])


def mapping_frames(neuron: npt.ArrayLike, rotation: npt.ArrayLike, flip: npt.ArrayLike, geometry: Geometry) -> Frames:
    """Frames of the rows of a mapping, as the store keeps them.

    Parameters
    ----------
    neuron, rotation, flip : (n,) int, ``bmu``, ``bmu_rotation`` and ``bmu_flip``; neuron -1 where not mapped.
    geometry : of the mapping.

    Raises
    ------
    CollationError : a rotation that the geometry does not have, or a flip that is not 0 or 1.
    """
    neurons, turns = np.asarray(neuron), np.asarray(rotation, np.int64)
    bad = (neurons >= 0) & ((turns < 0) | (turns >= geometry.rotations))
    if bad.any():
        raise CollationError(
            f"{int(bad.sum())} mapped rows have rotations such as {turns[bad][0]}; the geometry of the mapping has "
            f"0 to {geometry.rotations - 1}: the store is damaged, map again"
        )
    angles = np.array([geometry.angle(k) for k in range(geometry.rotations)], np.float32)
    return Frames(neurons, np.where(neurons >= 0, angles[turns.clip(0, geometry.rotations - 1)], 0), np.asarray(flip))


def prepared_pixel_scale(
    steps: Sequence[tuple[str, Mapping[str, Any]]], image_side: int, channels: int, pixel_scale_arcsec: float
) -> float:
    """Pixel scale, arcsec, of the images that a chain of preprocessing steps makes of images of a survey.

    The chain is run on a small image of noise: it knows best what it does to the grid.

    Parameters
    ----------
    steps : names and parameters, as the store keeps them (``chain``). image_side, channels, pixel_scale_arcsec : of the
        images as they were ingested.

    Raises
    ------
    CollationError : a chain that leaves images with scales of their own (``physical_scale``).
    """
    from skysom.engine.preprocess import preprocess

    noise = np.random.default_rng(0).normal(size=(1, channels, image_side, image_side))
    batch = preprocess(noise, steps, redshift=[0.1], pixel_scale_arcsec=pixel_scale_arcsec)
    if batch.pixel_scale_arcsec is None:
        raise CollationError(
            f"the preprocessing steps {[name for name, _ in steps]} give every image a pixel scale of its own, so that "
            "one scale cannot lay the masks on the sky; map images that keep their scale (without physical_scale)"
        )
    return batch.pixel_scale_arcsec


def _pixels(wcs: "WCS", vectors: np.ndarray) -> np.ndarray:
    """Pixels x, y (n, 2) float64 of ICRS vectors (n, 3); NaN where there is none."""
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import skycoord_to_pixel

    found = np.full((len(vectors), 2), np.nan)
    rows = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if len(rows):
        sky = SkyCoord(*vectors[rows].T, representation_type="cartesian", frame="icrs")
        sky.representation_type = "unitspherical"
        found[rows] = np.column_stack(skycoord_to_pixel(sky, wcs))
    return found
