"""Where the neighbours of a source lie in the frame of its neuron, and which labels they carry there.

A neighbour at (east, north) of its source in the sky-offset frame of the source (specs/pyink.md, section 3) lies at
x = -east / scale, y = north / scale pixels from the centre of an image whose rows grow to the north and whose columns
grow to the west. The image is turned onto its neuron by an angle, then its rows are reversed where ``flip`` is 1:

    x' = x cos a - y sin a,    y' = x sin a + y cos a,    y' -> -y' where flipped,

and the pixel is trunc(x' + D / 2), trunc(y' + D / 2), which is the nearest one about the centre (D - 1) / 2. What lies
outside the neuron has no label (the peer wraps round, or stops there). Positions in (-1, 0) are pixel 0, as there.

`project` says all of this in array operations; `carried_bits` runs it compiled, equal bit for bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skysom.engine.collation.carried import Carried
from skysom.engine.collation.checks import check_lengths, checked_index, checked_pairs
from skysom.engine.collation.mask_words import check_planes, label_planes, mask_bits, mask_reach_arcsec
from skysom.engine.collation.neighbours import (
    RADIAN_ARCSEC,
    NeighbourSearch,
    check_limit,
    separations_arcsec,
    unit_vectors,
)
from skysom.engine.collation.offsets import (
    SERIES,
    SMALL,
    cosine_sine,
    mask_pixel,
    neuron_offsets,
    offsets_of_vectors,
    pixel_offsets,
    pixel_offsets_of_wcs,
    scales,
    sky_offsets_arcsec,
    tangent_axes,
)
from skysom.engine.errors import CollationError

__all__ = [
    "Frames",
    "Projected",
    "bits_of_offsets",
    "carried_bits",
    "carried_of_channel",
    "label_planes",
    "mask_bits",
    "mask_pixel",
    "mask_reach_arcsec",
    "neuron_offsets",
    "pixel_offsets",
    "pixel_offsets_of_wcs",
    "project",
    "sky_offsets_arcsec",
]

LIMIT_CLASSES = 12
"""Classes of sources that are searched apart, each by half the area of the one before."""


@dataclass(frozen=True, eq=False)
class Frames:
    """How the image of each base row lies in its neuron.

    neuron : (n,) int32, the best-matching unit; -1 where the row has no mask to project (not mapped, not annotated).
    angle_rad : (n,) float32, the turn of the image onto the neuron, clockwise with row 0 on top.
    flip : (n,) int8, 1 where the rows are reversed after the turn.

    Raises
    ------
    CollationError : columns of different lengths, an angle that is not finite or a flip that is not 0 or 1 where there
        is a neuron.
    """

    neuron: np.ndarray
    angle_rad: np.ndarray
    flip: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (("neuron", np.int32), ("angle_rad", np.float32), ("flip", np.int8)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        if not self.neuron.shape == self.angle_rad.shape == self.flip.shape or self.neuron.ndim != 1:
            raise CollationError(
                f"neurons, angles and flips have shapes {self.neuron.shape}, {self.angle_rad.shape} and "
                f"{self.flip.shape}; give one of each a base row"
            )
        used = self.neuron >= 0
        bad = used & (~np.isfinite(self.angle_rad) | ~np.isin(self.flip, (0, 1)))
        if bad.any():
            row = int(np.argmax(bad))
            raise CollationError(
                f"{int(bad.sum())} rows have a neuron but no turn onto it (row {row}: angle {self.angle_rad[row]}, "
                f"flip {self.flip[row]}); give finite radians and a flip of 0 or 1, or neuron -1"
            )

    def __len__(self) -> int:
        return len(self.neuron)

    def take(self, rows: npt.ArrayLike) -> "Frames":
        """The frames of ``rows``, in that order."""
        where = np.asarray(rows)
        return Frames(self.neuron[where], self.angle_rad[where], self.flip[where])

    def seen_through(self, rotation_rad: npt.ArrayLike, mirrored: npt.ArrayLike) -> "Frames":
        """Frames of images that do not lie with north up and east left: their own turn and that onto the neuron in one.

        rotation_rad, mirrored : (n,), or one for all, as `skysom.engine.collation.orientation` finds them. A turn by r
        and a mirror, then a turn by a and the flip f, are a turn by r + a and f, or mirrored by r - a and 1 - f.

        Offsets are scaled before they are turned. Scales that differ in x and y are therefore right only for images
        that are not turned; elsewhere the pixels have to be square.

        Raises
        ------
        CollationError : a rotation that is not finite of a row that has a neuron.
        """
        turn = np.broadcast_to(np.asarray(rotation_rad, np.float64), self.angle_rad.shape)
        reversed_rows = np.broadcast_to(np.asarray(mirrored, bool), self.flip.shape)
        angle = turn + np.where(reversed_rows, -1.0, 1.0) * self.angle_rad
        return Frames(self.neuron, angle, np.where(reversed_rows, 1 - self.flip, self.flip))


@dataclass(frozen=True, eq=False)
class Projected:
    """Every step of the projection of P pairs; each (P,), float64 but for the bits.

    east_arcsec, north_arcsec : sky offsets. pixel_x, pixel_y : offsets in the image. neuron_x, neuron_y : offsets in
    the neuron. column, row : positions in the neuron, before truncation. bits : (P,) uint64, bit p for label p.
    """

    east_arcsec: np.ndarray
    north_arcsec: np.ndarray
    pixel_x: np.ndarray
    pixel_y: np.ndarray
    neuron_x: np.ndarray
    neuron_y: np.ndarray
    column: np.ndarray
    row: np.ndarray
    bits: np.ndarray


def project(
    centre_ra_deg: npt.ArrayLike,
    centre_dec_deg: npt.ArrayLike,
    ra_deg: npt.ArrayLike,
    dec_deg: npt.ArrayLike,
    base_index: np.ndarray,
    other_index: np.ndarray,
    frames: Frames,
    planes: np.ndarray,
    pixel_scale_arcsec: float | Sequence[float],
    *,
    float32_angles: bool = False,
) -> Projected:
    """The projection of pairs with every step of it, in plain array operations: what `carried_bits` is tested against.

    Arguments and errors as there.
    """
    centres, others = unit_vectors(centre_ra_deg, centre_dec_deg), unit_vectors(ra_deg, dec_deg)
    _check_frames(len(centres), frames)
    base_index, other_index = checked_pairs(base_index, len(centres), other_index, len(others))
    east, north = offsets_of_vectors(centres[base_index], others[other_index])
    x, y = pixel_offsets(east, north, pixel_scale_arcsec)
    turned = frames.take(base_index)
    neuron_x, neuron_y = neuron_offsets(x, y, turned.angle_rad, turned.flip, float32_angles=float32_angles)
    half = planes.shape[1] / 2.0
    bits = mask_bits(neuron_x, neuron_y, turned.neuron, planes)
    return Projected(east, north, x, y, neuron_x, neuron_y, neuron_x + half, neuron_y + half, bits)


# --- at once --------------------------------------------------------------------------------------


def carried_bits(
    centre_ra_deg: npt.ArrayLike,
    centre_dec_deg: npt.ArrayLike,
    ra_deg: npt.ArrayLike,
    dec_deg: npt.ArrayLike,
    base_index: np.ndarray,
    other_index: np.ndarray,
    frames: Frames,
    planes: np.ndarray,
    pixel_scale_arcsec: float | Sequence[float],
    *,
    float32_angles: bool = False,
) -> np.ndarray:
    """Labels under which neighbours lie in the mask of their source's neuron; runs without the GIL.

    Parameters
    ----------
    centre_ra_deg, centre_dec_deg : (n,), the base rows. ra_deg, dec_deg : (m,), the catalogue of the mask's channel.
    base_index, other_index : (P,) int64, pairs of rows of the two.
    frames : of the n base rows.
    planes : (N, D, D) uint64, the masks of one channel, as `label_planes` makes them.
    pixel_scale_arcsec : of the images that were mapped, one number or (x, y).
    float32_angles : cosine and sine in float32, for equality with the peer.

    Returns
    -------
    (P,) uint64, bit p set for label p; 0 outside the neuron and where the row has no neuron.

    Raises
    ------
    CollationError : a neuron that the planes do not have, planes or a scale of another kind, other lengths, a row that
        there is not.
    """
    centres, others = unit_vectors(centre_ra_deg, centre_dec_deg), unit_vectors(ra_deg, dec_deg)
    projection = _Projection(centres, frames, planes, pixel_scale_arcsec, float32_angles)
    return projection(others, *checked_pairs(base_index, len(centres), other_index, len(others)))


def bits_of_offsets(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    base_index: np.ndarray,
    frames: Frames,
    planes: np.ndarray,
    *,
    float32_angles: bool = False,
) -> np.ndarray:
    """`carried_bits` of neighbours whose offsets x, y (P,) in the image are known, as from `pixel_offsets_of_wcs`.

    Offsets are in pixels of the images that were mapped. Other arguments, result and errors as there.
    """
    from skysom.engine.collation import projection_kernels as kernels

    check_planes(planes, frames.neuron)
    cosine, sine = cosine_sine(frames.angle_rad, float32_angles)
    index = checked_index("base_index", base_index, len(frames))
    offsets = [np.ascontiguousarray(values, np.float64) for values in (x, y)]
    if not offsets[0].shape == offsets[1].shape == index.shape:
        raise CollationError(
            f"offsets x {offsets[0].shape} and y {offsets[1].shape} are of rows {index.shape}; give one of each a pair"
        )
    bits = np.empty(len(index), np.uint64)
    upright = np.where(frames.flip == 1, -1.0, 1.0)
    kernels.bits_of_offsets(*offsets, index, frames.neuron, cosine, sine, upright, np.ascontiguousarray(planes), bits)
    return bits


def carried_of_channel(
    channel: int,
    base_rows: np.ndarray,
    centre_ra_deg: npt.ArrayLike,
    centre_dec_deg: npt.ArrayLike,
    frames: Frames,
    other_rows: np.ndarray,
    ra_deg: npt.ArrayLike,
    dec_deg: npt.ArrayLike,
    planes: np.ndarray,
    pixel_scale_arcsec: float | Sequence[float],
    limit_arcsec: float,
    *,
    float32_angles: bool = False,
    reach_arcsec: np.ndarray | None = None,
) -> Carried:
    """Pairs of sources and neighbours within ``limit_arcsec`` that lie under a label: pairs found, looked up, kept.

    In pieces, so that memory is that of what is kept and of a million pairs. Sources without a neuron are left out
    before they are searched.

    Parameters
    ----------
    base_rows : (n,) int64, row numbers of the sources, and other_rows : (m,) int64 of the neighbours; each once.
    reach_arcsec : (N,), how far the mask of each neuron reaches, from `mask_reach_arcsec`: neighbours further away are
        not looked for, which saves time where few neurons reach far and changes nothing else.
    Others : as `carried_bits` and `neighbour_pairs` have them.

    Raises
    ------
    CollationError : what these two raise; numbers of rows or reaches that are not one each a position or a neuron.
    """
    base_rows, other_rows = np.asarray(base_rows, np.int64), np.asarray(other_rows, np.int64)
    centres, others = unit_vectors(centre_ra_deg, centre_dec_deg), unit_vectors(ra_deg, dec_deg)
    check_lengths("row numbers of sources", base_rows, "positions of sources", len(centres))
    check_lengths("row numbers of neighbours", other_rows, "positions of neighbours", len(others))
    projection = _Projection(centres, frames, planes, pixel_scale_arcsec, float32_angles)
    sources = np.flatnonzero(frames.neuron >= 0)
    classes: Iterable[tuple[np.ndarray, float]] = [(sources, limit_arcsec)]
    if reach_arcsec is not None:
        check_limit(limit_arcsec)
        reach_arcsec = np.asarray(reach_arcsec, np.float64)
        check_lengths("reaches", reach_arcsec, "neurons", len(planes))
        classes = _by_reach(sources, reach_arcsec[frames.neuron[sources]], limit_arcsec)
    search, parts = NeighbourSearch(others), []
    for members, limit in classes:
        for index, other_index in search.pieces(centres[members], limit):
            base_index = members[index]
            bits = projection(others, base_index, other_index)
            kept = np.flatnonzero(bits)
            base_index, other_index = base_index[kept], other_index[kept]
            separation = separations_arcsec(centres, others, base_index, other_index)
            channels = np.full(len(kept), channel, np.int8)
            parts.append(Carried(base_rows[base_index], channels, other_rows[other_index], bits[kept], separation))
    return Carried.concatenate(parts)


def _by_reach(rows: np.ndarray, reach: np.ndarray, limit: float) -> Iterator[tuple[np.ndarray, float]]:
    """Classes of ``rows`` (n,) of about the same reach (n,), and how far each is searched; without reach, in none."""
    rows, reach = rows[reach > 0], reach[reach > 0]
    step = np.floor(2 * np.log2(reach / reach.max(initial=0))).clip(-LIMIT_CLASSES)
    for number in np.unique(step):
        yield rows[step == number], min(limit, float(reach[step == number].max()))


class _Projection:
    """What the kernel needs of the base rows, made once."""

    def __init__(
        self,
        centres: np.ndarray,
        frames: Frames,
        planes: np.ndarray,
        pixel_scale_arcsec: float | Sequence[float],
        float32_angles: bool,
    ) -> None:
        _check_frames(len(centres), frames)
        check_planes(planes, frames.neuron)
        self.centres, self.frames, self.planes = centres, frames, np.ascontiguousarray(planes)
        self.axes = np.column_stack(tangent_axes(centres))
        self.cosine, self.sine = cosine_sine(frames.angle_rad, float32_angles)
        self.upright = np.where(frames.flip == 1, -1.0, 1.0)
        self.scale = np.array([*scales(pixel_scale_arcsec), RADIAN_ARCSEC])

    def __call__(self, others: np.ndarray, base_index: np.ndarray, other_index: np.ndarray) -> np.ndarray:
        """Bits (P,) uint64 of pairs of base rows and rows of ``others`` (m, 3), (P,) int64 each.

        The indices are not checked, and the kernel reads wherever they point.
        """
        from skysom.engine.collation import projection_kernels as kernels

        bits = np.empty(len(base_index), np.uint64)
        pairs: tuple[Any, ...] = (np.ascontiguousarray(base_index), np.ascontiguousarray(other_index))
        turn = (self.frames.neuron, self.cosine, self.sine, self.upright)
        kernels.bits_of_pairs(
            self.centres, self.axes, others, *pairs, *turn, self.scale, SERIES, SMALL, self.planes, bits
        )
        return bits


# --- parts ----------------------------------------------------------------------------------------


def _check_frames(rows: int, frames: Frames) -> None:
    if len(frames) != rows:
        raise CollationError(f"there are frames of {len(frames)} rows for {rows} positions; give one a base row")
