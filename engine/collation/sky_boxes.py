"""The sky in boxes that are worked on one by one: strips of declination, each cut in right ascension.

Every position lies in exactly one box. A box with a margin holds all positions that are within an angle of any position
in the box, also about the poles and across RA 0. Boxes only decide who works on what: no result depends on them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import CollationError

HAIR_DEG = 1e-9
"""Added to margins, so that no pair is lost to rounding."""


@dataclass(frozen=True, eq=False)
class SkyBoxes:
    """Strips of declination, from the south, and boxes in each, from RA 0.

    dec_cuts_deg : (S - 1,) ascending, where strips begin but the first.
    ra_cuts_deg : S arrays, ascending in (0, 360), where boxes of the strip begin but the first.
    """

    dec_cuts_deg: np.ndarray
    ra_cuts_deg: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dec_cuts_deg", np.asarray(self.dec_cuts_deg, np.float64))
        object.__setattr__(self, "ra_cuts_deg", tuple(np.asarray(cuts, np.float64) for cuts in self.ra_cuts_deg))
        if len(self.ra_cuts_deg) != len(self.dec_cuts_deg) + 1:
            raise CollationError(
                f"{len(self.dec_cuts_deg)} cuts in declination make {len(self.dec_cuts_deg) + 1} strips, "
                f"but there are cuts in right ascension for {len(self.ra_cuts_deg)}; give one array a strip"
            )

    @property
    def count(self) -> int:
        """How many boxes."""
        return int(self._first[-1])

    @property
    def _first(self) -> np.ndarray:
        """(S + 1,) int64, number of the first box of each strip."""
        return np.concatenate([[0], np.cumsum([len(cuts) + 1 for cuts in self.ra_cuts_deg])]).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; floats are kept exactly."""
        return {"dec_cuts_deg": self.dec_cuts_deg.tolist(), "ra_cuts_deg": [cuts.tolist() for cuts in self.ra_cuts_deg]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SkyBoxes":
        """The boxes of `to_dict`."""
        return cls(np.array(values["dec_cuts_deg"]), tuple(np.array(cuts) for cuts in values["ra_cuts_deg"]))

    def box_of(self, ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike) -> np.ndarray:
        """The box (n,) int32 of each position (n,) in degrees; -1 where it is NaN or no declination."""
        ra, dec, rows = _positions(ra_deg, dec_deg)
        found = np.full(np.shape(ra_deg), -1, np.int32)
        boxes = np.empty(len(rows), np.int32)
        order, edges = _by_strip(dec, self.dec_cuts_deg)
        for number, (first, cuts) in enumerate(zip(self._first, self.ra_cuts_deg, strict=False)):
            here = order[edges[number] : edges[number + 1]]
            boxes[here] = first + np.searchsorted(cuts, ra[here], side="right")
        found[rows] = boxes
        return found

    def with_margin(
        self, ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike, margin_arcsec: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every box within ``margin_arcsec`` of which a position lies: (index (k,) int64, box (k,) int32).

        Sorted by box, then by index; each such pair once; NaN positions have none. Within the angle m of a position at
        declination d, right ascensions differ by at most arcsin(sin m / cos d); by anything where a pole is within m.

        Raises
        ------
        CollationError : a margin that is negative or not finite.
        """
        if not 0 <= margin_arcsec < math.inf:
            raise CollationError(f"the margin is {margin_arcsec} arcsec; give 0 or more")
        ra, dec, rows = _positions(ra_deg, dec_deg)
        margin = margin_arcsec / 3600 + HAIR_DEG
        order = np.argsort(dec)
        ra, dec, rows = ra[order], dec[order], rows[order]
        reach = _reach_deg(dec, margin)
        edges = np.concatenate([[-np.inf], self.dec_cuts_deg, [np.inf]])
        begin = np.searchsorted(dec, edges[:-1] - margin)
        end = np.searchsorted(dec, edges[1:] + margin, side="right")
        index, box = [], []
        for number, (first, cuts) in enumerate(zip(self._first, self.ra_cuts_deg, strict=False)):
            here = slice(begin[number], end[number])
            position, inside = _boxes_about(ra[here], reach[here], cuts)
            index.append(rows[here][position])
            box.append((first + inside).astype(np.int32))
        indices, boxes = np.concatenate(index), np.concatenate(box)
        shift = int(indices.max(initial=0)).bit_length()
        key = np.sort((boxes.astype(np.int64) << shift) | indices)  # far faster than to sort by two columns
        return key & ((1 << shift) - 1), (key >> shift).astype(np.int32)


def partition_sky(ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike, rows_per_box: int) -> SkyBoxes:
    """Boxes of at most about ``rows_per_box`` of the positions (n,), cut at their quantiles.

    A sample of a catalogue will do, with as much smaller a number. Positions that are NaN do not count; many equal
    ones stay together.

    Raises
    ------
    CollationError : rows_per_box below 1.
    """
    if rows_per_box < 1:
        raise CollationError(f"boxes of {rows_per_box} rows; give 1 or more")
    ra, dec, _ = _positions(ra_deg, dec_deg)
    boxes = -(-len(ra) // rows_per_box)
    # The whole sky is twice as wide as high: so boxes are about square.
    strips = max(1, round(math.sqrt(boxes / 2)))
    dec_cuts = _cuts(dec, strips)
    order, edges = _by_strip(dec, dec_cuts)
    ra_cuts = []
    for number in range(len(dec_cuts) + 1):
        inside = ra[order[edges[number] : edges[number + 1]]]
        ra_cuts.append(_cuts(inside, -(-len(inside) // rows_per_box)))
    return SkyBoxes(dec_cuts, tuple(ra_cuts))


def _by_strip(dec_deg: np.ndarray, cuts_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions that sort by strip, and where in them each of the S strips begins and the last ends (S + 1,)."""
    strips = len(cuts_deg) + 1
    strip = np.searchsorted(cuts_deg, dec_deg, side="right").astype(np.min_scalar_type(strips))  # small: radix sorted
    counts = np.bincount(strip, minlength=strips)
    return np.argsort(strip, kind="stable"), np.concatenate([[0], np.cumsum(counts)])


def _cuts(values: np.ndarray, parts: int) -> np.ndarray:
    """Values that begin the second and later of at most ``parts`` parts of about equal number."""
    if parts < 2 or not len(values):
        return np.empty(0)
    places = (np.arange(1, parts) * len(values)) // parts
    cuts = np.unique(np.sort(values)[places])
    return cuts[cuts > values.min()]


def _positions(ra_deg: npt.ArrayLike, dec_deg: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right ascension in [0, 360), declination and number of the rows that are positions."""
    ra, dec = np.asarray(ra_deg, np.float64), np.asarray(dec_deg, np.float64)
    if ra.shape != dec.shape or ra.ndim != 1:
        raise CollationError(f"positions have shapes {ra.shape} and {dec.shape}; give one ra and one dec a row")
    rows = np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90))
    turned = ra[rows] % 360
    return np.where(turned == 360, 0.0, turned), dec[rows], rows


def _reach_deg(dec_deg: np.ndarray, margin_deg: float) -> np.ndarray:
    """How far right ascensions within the margin of a position differ from its own, degrees; 360 where a pole is."""
    if margin_deg >= 90:
        return np.full(len(dec_deg), 360.0)
    polar = np.abs(dec_deg) + margin_deg >= 90
    cosine = np.cos(np.radians(np.where(polar, 0.0, dec_deg)))
    ratio = math.sin(math.radians(margin_deg)) / cosine
    return np.where(polar, 360.0, np.degrees(np.arcsin(np.minimum(ratio, 1))) + HAIR_DEG)


def _boxes_about(ra_deg: np.ndarray, reach_deg: np.ndarray, cuts_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the boxes between cuts the arcs ra +- reach touch: (position, box) int64, each once."""
    boxes = len(cuts_deg) + 1
    low, high = ra_deg - reach_deg, ra_deg + reach_deg
    first = np.searchsorted(cuts_deg, low % 360, side="right")
    last = np.searchsorted(cuts_deg, high % 360, side="right")
    wrapped = (low < 0) | (high >= 360)
    count = np.where(wrapped, boxes - first + last + 1, last - first + 1)
    count = np.where(reach_deg >= 180, boxes, np.minimum(count, boxes))
    position = np.repeat(np.arange(len(ra_deg)), count)
    step = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
    return position, (first[position] + step) % boxes
