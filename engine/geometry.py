"""Where an image, a neuron and the distance region lie with respect to each other.

Notation of the project (ARCHITECTURE.md): H image side, D neuron side, R rotations, F flips,
T = R * F transforms, P pixels of the region. Transform t = flip * R + k turns the image by
k * 360 / R degrees (clockwise with row 0 on top) and then, where flip is 1, reverses its rows.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, cast, get_args

import numpy as np

from skysom.engine.errors import GeometryError

Region = Literal["quadratic", "circular", "annular"]


class Taps(NamedTuple):
    """Bilinear interpolation of some neuron pixels: where each reads the image.

    index : (...,) int32, flat index of the upper left of four image pixels, -1 outside the image.
    row_fraction, column_fraction : (...,) float32, weights of the lower and of the right pixels.
    """

    index: np.ndarray  # type: ignore[assignment]
    row_fraction: np.ndarray
    column_fraction: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """Sides in pixels, the region of the distance, rotations and flips.

    The annular region is the circular one of ``region_side`` without that of ``inner_side``, which other regions do
    not have (0). Use `Geometry.derive` for the default sides. Raises GeometryError where they do not fit.
    """

    image_side: int
    neuron_side: int
    region_side: int
    region: Region = "quadratic"
    rotations: int = 360
    flip: bool = True
    inner_side: int = 0

    def __post_init__(self) -> None:
        if self.region not in get_args(Region):
            raise GeometryError(f"region is {self.region!r}; use one of {get_args(Region)}")
        if self.image_side < 2 or self.neuron_side < 1 or self.region_side < 1:
            raise GeometryError(
                f"sides must be at least 2 (image), 1 (neuron) and 1 (region) pixels; "
                f"got {self.image_side}, {self.neuron_side}, {self.region_side}"
            )
        if self.rotations != 1 and (self.rotations < 1 or self.rotations % 4):
            raise GeometryError(f"rotations is {self.rotations}; use 1 or a positive multiple of 4")
        if self.region_side > self.neuron_side:
            raise GeometryError(
                f"the region side ({self.region_side} pixels) exceeds the neuron side ({self.neuron_side}); "
                "make the region smaller or the neurons larger"
            )
        fits = 0 < self.inner_side < self.region_side if self.region == "annular" else self.inner_side == 0
        if not fits:
            raise GeometryError(
                f"the inner side is {self.inner_side} pixels of a region that is {self.region} with side "
                f"{self.region_side}; an annular region needs one between, others have none (0)"
            )

    @classmethod
    def derive(
        cls,
        image_side: int,
        rotations: int = 360,
        flip: bool = True,
        region: str = "quadratic",
        neuron_side: int | None = None,
        region_side: int | None = None,
        inner_side: int = 0,
    ) -> "Geometry":
        """Geometry with the peer's default sides.

        The neuron holds a turned image, trunc(2 H / sqrt(2) + 1), and the quadratic region is the
        square inside any turned image, trunc(H sqrt(2) / 2); both are H for a single rotation, and a
        circular or annular region has side H.
        """
        if neuron_side is None:
            neuron_side = image_side if rotations == 1 else int(2 * image_side / math.sqrt(2) + 1)
        if region_side is None:
            whole = rotations == 1 or region != "quadratic"
            region_side = image_side if whole else int(image_side * math.sqrt(2) * 0.5)
        return cls(image_side, neuron_side, region_side, cast(Region, region), rotations, flip, inner_side)

    @property
    def transforms(self) -> int:
        """T, the number of transforms of an image."""
        return self.rotations * (2 if self.flip else 1)

    @property
    def base_rotations(self) -> int:
        """Rotations that are interpolated (R / 4); the others are quarter turns of these."""
        return max(self.rotations // 4, 1)

    @property
    def elements(self) -> tuple[int, ...]:
        """Grid symmetries in use: h = 4 f + q is q quarter turns, then f flips."""
        quarters = 1 if self.rotations == 1 else 4
        return tuple(4 * f + q for f in range(2 if self.flip else 1) for q in range(quarters))

    def transform_index(self, element: int, k: int) -> int:
        """t of grid symmetry ``element`` after base rotation ``k``."""
        return (element // 4) * self.rotations + (element % 4) * self.base_rotations + k

    def angle(self, k: int) -> np.float32:
        """Angle of rotation k in radians, in float32 steps as the peer's tables."""
        return np.float32(np.float32(k) * (np.float32(2 * np.pi) / np.float32(self.rotations)))

    @cached_property
    def margin(self) -> int:
        """Pixels of padding (positive) or cropping (negative) on the low side of an unrotated image."""
        margin = abs(self.neuron_side - self.image_side) // 2
        return margin if self.neuron_side >= self.image_side else -margin

    @cached_property
    def region_mask(self) -> np.ndarray:
        """(D, D) bool, the pixels of the distance."""
        if self.region == "quadratic":
            side, offset = self.region_side, (self.neuron_side - self.region_side) // 2
            mask = np.zeros((self.neuron_side, self.neuron_side), bool)
            mask[offset : offset + side, offset : offset + side] = True
            return mask
        mask = self._disc(self.region_side)
        if self.inner_side:
            mask &= ~self._disc(self.inner_side)
        if not mask.any():
            raise GeometryError(f"a {self.region} region of side {self.region_side} has no pixel; make it larger")
        return mask

    def _disc(self, side: int) -> np.ndarray:
        """(D, D) bool, the circular region of ``side``."""
        mask = np.zeros((self.neuron_side, self.neuron_side), bool)
        offset, radius, centre = (self.neuron_side - side) // 2, side // 2, self.neuron_side // 2
        for row in range(2 * radius):
            half_width = math.sqrt(2 * radius * (row + 0.5) - (row + 0.5) ** 2)
            # Halves are rounded away from zero, unlike Python's round.
            first, stop = math.floor(centre - half_width + 0.5), math.floor(centre + half_width + 0.5)
            mask[offset + row, first:stop] = True
        return mask

    def taps(self, k: int, pixels: np.ndarray) -> Taps:
        """Where base rotation ``k`` samples the image for flat neuron-frame ``pixels`` (...,) int.

        k = 0 copies the image with floor margins; the others interpolate about the exact centres
        (sides - 1) / 2. A pixel whose source lies outside the closed image is 0 (index -1).
        """
        side, rows, columns = self.image_side, pixels // self.neuron_side, pixels % self.neuron_side
        if k == 0:
            source_row, source_column = rows - self.margin, columns - self.margin
        else:
            source_row, source_column = self._rotated(k, rows, columns)
        last = side - 1
        inside = (source_row >= 0) & (source_row <= last) & (source_column >= 0) & (source_column <= last)
        # The last row and column read from one before with weight 1: no tap beyond the image.
        row = np.clip(np.trunc(source_row), 0, last - 1).astype(np.int32)
        column = np.clip(np.trunc(source_column), 0, last - 1).astype(np.int32)
        index = np.where(inside, row * np.int32(side) + column, np.int32(-1))
        row_fraction = np.where(inside, source_row - row, 0).astype(np.float32)
        column_fraction = np.where(inside, source_column - column, 0).astype(np.float32)
        return Taps(index.astype(np.int32), row_fraction, column_fraction)

    def _rotated(self, k: int, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source row and column, float32, rounded as fused multiply-adds round them."""
        angle = float(self.angle(k))
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        half = np.float32((self.neuron_side - 1) * 0.5)
        centre = np.float32((self.image_side - 1) * 0.5)
        y, x = rows.astype(np.float32) - half, columns.astype(np.float32) - half
        # A float32 product is exact in float64, so this is one rounding, as in a fused operation.
        row = (y * cos).astype(np.float64) - x.astype(np.float64) * np.float64(sin)
        column = (y * sin).astype(np.float64) + x.astype(np.float64) * np.float64(cos)
        return row.astype(np.float32) + centre, column.astype(np.float32) + centre
